"""`ServeConfig`: how an endpoint is served."""

from dataclasses import dataclass

from fledge.core.keys import VARIABLE
from fledge.core.limits import Limits
from fledge.core.settings import option, out_of_range
from fledge.core.types import Content
from fledge.engines.settings import EngineSettings


@dataclass(frozen=True)
class ServeConfig(EngineSettings):
    """How an endpoint is served."""

    host: str = option("127.0.0.1", f"address to listen on; beyond loopback a key is needed: {VARIABLE} or --keys-file")
    port: int = option(5001, "port to listen on")
    allowed_hosts: tuple[str, ...] = option(
        (), "names by which clients may call this endpoint beyond loopback", group="Security"
    )
    keys_file: str = option("", "file of keys, a line NAME KEY each; read again when it changes", group="Security")
    cors_origins: tuple[str, ...] = option((), "Origins whose pages may ask, as https://example.org", group="Security")
    tls_cert: str = option("", "certificate file for https", group="Security")
    tls_key: str = option("", "its private key file", group="Security")
    open_metrics: bool = option(False, "let /metrics be read without a key", group="Security")
    open_docs: bool = option(False, "let /docs and /openapi.json be read without a key", group="Security")
    split: tuple[str, ...] = option((), "share requests among aliases, as champion=90,challenger=10", group="Traffic")
    shadow: str = option(
        "", "have an alias answer a share of the requests as shadow traffic: challenger=10%", group="Traffic"
    )
    canary: str = option("", "try the release of an alias on more and more requests, as challenger", group="Traffic")
    steps: tuple[str, ...] = option(
        ("5", "25", "50", "100"), "its shares of the requests in percent, rising", group="Traffic"
    )
    hold: str = option("10m", "how long each share is held, as 30s, 10m or 1h", group="Traffic")
    guard: tuple[str, ...] = option(
        ("error_rate<=+1%", "ttft_p95<=+20%"), "what a canary may lose; beyond, it is rolled back", group="Traffic"
    )
    record: bool = option(True, "record each request as a trace in MLflow", group="Recording")
    record_content: Content = option("keep", "texts in records: keep, hash or drop", group="Recording")
    redact: tuple[str, ...] = option(
        (),
        "taken out of records: email, phone, card, ip, iban, secret, regex:EXPRESSION, module:function",
        group="Recording",
    )
    outbox_mb: int = option(
        1000, "most that requests not yet in MLflow may take on disk, in MB; beyond, dropped", group="Recording"
    )
    otlp: str = option(
        "", "also send each request's spans to this OTLP address, as http://127.0.0.1:4318/v1/traces", group="Recording"
    )
    watch_s: float = option(5.0, "seconds between looks at the aliases that are served; 0 for none", group="Operation")
    heartbeat_s: float = option(
        30.0, "seconds after which a process that does not answer is killed; 0 for never", group="Operation"
    )
    log_json: bool = option(False, "a JSON object for each line of the log", group="Operation")
    limits: Limits = Limits()

    @property
    def url(self) -> str:
        """Where clients on this machine find it."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{shown}:{self.port}"

    def problems(self) -> list[str]:
        found = super().problems() + self.limits.problems()
        found += out_of_range(self, ("port", 1, 65535), ("outbox_mb", 1, 10**6), ("watch_s", 0, 86_400))
        found += out_of_range(self, ("heartbeat_s", 0, 3600))
        if bool(self.tls_cert) != bool(self.tls_key):
            found.append("tls_cert and tls_key go together")
        return found
