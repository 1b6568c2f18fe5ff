"""Formats of JSON strings that are enforced."""

from collections.abc import Mapping

_DATE = r"[12]\d{3}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])"
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_LABEL = r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?"
# Formats that are enforced; others are annotations. Days beyond the 28th are left out, since months differ.
FORMATS: Mapping[str, str] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "duration": r"^P(\d{1,3}D(T\d{1,2}H)?|T\d{1,2}H(\d{1,2}M)?|T\d{1,2}M(\d{1,2}S)?|T\d{1,2}S|\d{1,3}W)$",
    "uuid": r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    "email": rf"^[A-Za-z0-9_+-]{{1,20}}(\.[A-Za-z0-9_+-]{{1,20}}){{0,2}}@({_LABEL}\.){{1,2}}[a-z]{{2,10}}$",
    "hostname": rf"^{_LABEL}(\.{_LABEL}){{0,3}}$",
    "ipv4": rf"^{_BYTE}(\.{_BYTE}){{3}}$",
    "ipv6": r"^[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}$",
    "uri": rf"^(https?|ftp)://{_LABEL}(\.{_LABEL}){{0,3}}(:[1-9]\d{{1,3}})?(/[A-Za-z0-9_.~-]{{0,40}}){{0,6}}$",
}
