"""OpenAI's official client of an endpoint."""

from openai import OpenAI

from fledge.supervision.endpoints import EndpointStatus


def openai_client(endpoint: EndpointStatus, key: str) -> OpenAI:
    """Return a client that validates every response against its types."""
    return OpenAI(base_url=f"{endpoint.url}/v1", api_key=key, max_retries=0, _strict_response_validation=True)
