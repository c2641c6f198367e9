"""Joining a control plane: a key made here, a certificate signed there, and a token for the heartbeats."""

import ipaddress

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.credentials import Credentials, Verifier, fingerprint
from wrenn_server.model.address import Address
from wrenn_server.model.errors import Unauthorized, WrennError
from wrenn_server.wire.agent import HostSpecs, Register, Registered

TIMEOUT = 30.0
"""Seconds."""


class RegistrationFailed(Exception):
    """The host did not join; the message says what to do. Nothing on this host has changed."""


async def register(
    control_plane: ControlPlane, token: str, address: str | None, specs: HostSpecs
) -> Credentials:
    """:raises RegistrationFailed:"""
    key = ec.generate_private_key(ec.SECP256R1())
    request = Register(token=token, address=address, csr_pem=signing_request(key, address), specs=specs)
    again = (
        "make a new registration token (POST /v1/hosts/{id}/token, as an admin) and start the agent with it"
    )
    try:
        data = await control_plane.post("/v1/hosts/register", request, timeout=TIMEOUT)
        registered = msgspec.json.decode(data, type=Registered)
    except Unauthorized as error:
        raise RegistrationFailed(
            f"the control plane refused the registration token ({error.message}); {again}"
        ) from error
    except WrennError as error:
        raise RegistrationFailed(
            f"the control plane refused to register this host: {error.message}"
        ) from error
    except (OSError, TimeoutError) as error:
        raise RegistrationFailed(
            f"the control plane at {control_plane.url} cannot be reached ({error or 'no answer'}). Check AGENT_CP_URL and"
            f" try again; if the token turns out to be used up by then, {again}"
        ) from error
    except msgspec.MsgspecError as error:
        raise RegistrationFailed(
            f"{control_plane.url} does not answer like a control plane of this version; the token may be used up now: "
            + again
        ) from error
    credentials = Credentials(
        host_id=registered.host_id,
        token=registered.token,
        key_pem=private_pem(key),
        cert_pem=registered.cert_pem,
        ca_cert_pem=registered.ca_cert_pem,
        control_plane_key_pem=registered.control_plane_key_pem,
        registration=fingerprint(token),
    )
    try:
        Verifier(credentials)
    except ValueError as error:
        raise RegistrationFailed(f"the control plane sent no usable key; {again}") from error
    return credentials


def private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def signing_request(key: ec.EllipticCurvePrivateKey, address: str | None) -> str:
    """PEM of a request for a certificate that is good for the address under which we are reached."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wrenn-agent")])
    )
    if address is not None:
        host = Address.parse_listen(address).host
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
