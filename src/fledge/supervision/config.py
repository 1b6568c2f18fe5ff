"""`ServeConfig`: the settings of an endpoint."""

from dataclasses import dataclass

from fledge.core.keys import VARIABLE
from fledge.core.limits import Limits
from fledge.core.settings import option, out_of_range
from fledge.core.types import Content
from fledge.engines.settings import EngineSettings


@dataclass(frozen=True)
class ServeConfig(EngineSettings):
    """The settings of an endpoint."""

    host: str = option("127.0.0.1", f"address to listen on; beyond loopback it needs a key: {VARIABLE} or --keys-file")
    port: int = option(5001, "port to listen on")
    allowed_hosts: tuple[str, ...] = option((), "host names accepted beyond loopback", group="Security")
    keys_file: str = option("", "file of keys, one NAME KEY per line; reloaded when it changes", group="Security")
    cors_origins: tuple[str, ...] = option((), "origins allowed by CORS, such as https://example.org", group="Security")
    tls_cert: str = option("", "certificate file for https", group="Security")
    tls_key: str = option("", "private key file of the certificate", group="Security")
    open_metrics: bool = option(False, "serve /metrics without a key", group="Security")
    open_docs: bool = option(False, "serve /docs and /openapi.json without a key", group="Security")
    split: tuple[str, ...] = option(
        (), "share of requests per alias, such as champion=90,challenger=10", group="Traffic"
    )
    shadow: str = option("", "share of requests sent to an alias as shadow traffic: challenger=10%", group="Traffic")
    canary: str = option("", "alias whose release gets a rising share of requests, such as challenger", group="Traffic")
    steps: tuple[str, ...] = option(("5", "25", "50", "100"), "rising shares of the canary in percent", group="Traffic")
    hold: str = option("10m", "duration of each share, such as 30s, 10m or 1h", group="Traffic")
    guard: tuple[str, ...] = option(
        ("error_rate<=+1%", "ttft_p95<=+20%"), "limits beyond which a canary is rolled back", group="Traffic"
    )
    record: bool = option(True, "record each request as a trace in MLflow", group="Recording")
    record_content: Content = option("keep", "texts in records: keep, hash or drop", group="Recording")
    redact: tuple[str, ...] = option(
        (),
        "redact from records: email, phone, card, ip, iban, secret, regex:EXPRESSION, module:function",
        group="Recording",
    )
    outbox_mb: int = option(
        1000, "limit of records not yet in MLflow on disk, in MB; the rest is dropped", group="Recording"
    )
    otlp: str = option(
        "", "OTLP URL that also receives spans, such as http://127.0.0.1:4318/v1/traces", group="Recording"
    )
    watch_s: float = option(5.0, "seconds between checks of the served aliases; 0 for none", group="Operation")
    heartbeat_s: float = option(
        30.0, "seconds after which an unresponsive process is killed; 0 for never", group="Operation"
    )
    log_json: bool = option(False, "log one JSON object per line", group="Operation")
    limits: Limits = Limits()

    @property
    def url(self) -> str:
        """Return the URL for clients on this machine."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{shown}:{self.port}"

    def problems(self) -> list[str]:
        found = super().problems() + self.limits.problems()
        found += out_of_range(self, ("port", 1, 65535), ("outbox_mb", 1, 10**6), ("watch_s", 0, 86_400))
        found += out_of_range(self, ("heartbeat_s", 0, 3600))
        if bool(self.tls_cert) != bool(self.tls_key):
            found.append("tls_cert and tls_key require each other")
        return found
