"""The platform's keys at work: tokens for users, hosts and calls to hosts; certificates for hosts.

All tokens are Ed25519 JWTs of one key with issuer `wrenn`; the audience keeps them apart: `wrenn-user`, `wrenn-host`,
`wrenn-oauth`, and for a call to a host that host's id.
"""

import datetime as dt
import ipaddress
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wrenn_server.controlplane import sealer
from wrenn_server.controlplane.sealer import Sealer
from wrenn_server.db import platform_keys
from wrenn_server.db.pool import Database
from wrenn_server.model.address import Address
from wrenn_server.model.errors import InvalidRequest, Unauthorized

ISSUER = "wrenn"
USER_AUDIENCE = "wrenn-user"
HOST_AUDIENCE = "wrenn-host"
OAUTH_AUDIENCE = "wrenn-oauth"
USER_TOKEN_SEC = 3600
"""A refresh token gets the next one; every use is checked against the session and the membership anyway."""
HOST_TOKEN_SEC = 365 * 24 * 3600
"""Longer than certificates, with which it is renewed: a host that was off for months comes back by itself."""
CALL_TOKEN_SEC = 60
CERTIFICATE_DAYS = 90
_CA_DAYS = 7300
_MAX_CSR = 16 * 1024
_CA_USAGE = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": True,
    "crl_sign": True,
    "encipher_only": False,
    "decipher_only": False,
}


@dataclass(frozen=True, slots=True)
class UserClaims:
    user_id: str
    team_id: str
    session_id: str | None = None
    """None: made by the platform for itself."""


@dataclass(frozen=True, slots=True)
class HostClaims:
    host_id: str
    epoch: int
    """Which of the host's tokens it is: `hosts.token_epoch` is the last that was used, after a registration or renewal."""


@dataclass(frozen=True, slots=True)
class OAuthClaims:
    """What must come back with a browser that was sent to another site."""

    nonce: str
    verifier: str = field(repr=False)
    user_id: str | None
    """Who links an account with theirs; None: a log-in."""


@dataclass(slots=True)
class Keys:
    signing: ed25519.Ed25519PrivateKey = field(repr=False)
    signing_public_pem: str
    ca: ec.EllipticCurvePrivateKey = field(repr=False)
    ca_certificate: x509.Certificate
    sealer: Sealer = field(repr=False)
    certificate_days: int = CERTIFICATE_DAYS
    """How long certificates of hosts are valid."""
    _calls: dict[str, tuple[float, str]] = field(default_factory=dict[str, tuple[float, str]], repr=False)

    @property
    def ca_pem(self) -> str:
        return self.ca_certificate.public_bytes(serialization.Encoding.PEM).decode()

    def user_token(self, claims: UserClaims) -> str:
        session = {} if claims.session_id is None else {"sid": claims.session_id}
        return self._sign(USER_AUDIENCE, USER_TOKEN_SEC, sub=claims.user_id, team=claims.team_id, **session)

    def read_user_token(self, token: str) -> UserClaims:
        """:raises Unauthorized:"""
        claims = self._read(token, USER_AUDIENCE)
        session = claims.get("sid")
        return UserClaims(
            str(claims.get("sub")), str(claims.get("team")), None if session is None else str(session)
        )

    def oauth_state(self, claims: OAuthClaims, lifetime_sec: int) -> str:
        user = {} if claims.user_id is None else {"sub": claims.user_id}
        return self._sign(OAUTH_AUDIENCE, lifetime_sec, nonce=claims.nonce, verifier=claims.verifier, **user)

    def read_oauth_state(self, state: str) -> OAuthClaims:
        """:raises Unauthorized:"""
        claims = self._read(state, OAUTH_AUDIENCE)
        user = claims.get("sub")
        return OAuthClaims(
            str(claims.get("nonce")), str(claims.get("verifier")), None if user is None else str(user)
        )

    def host_token(self, claims: HostClaims) -> str:
        return self._sign(HOST_AUDIENCE, HOST_TOKEN_SEC, sub=claims.host_id, epoch=claims.epoch)

    def read_host_token(self, token: str) -> HostClaims:
        """:raises Unauthorized:"""
        claims = self._read(token, HOST_AUDIENCE)
        epoch = claims.get("epoch")
        return HostClaims(str(claims.get("sub")), epoch if isinstance(epoch, int) else -1)

    def call_token(self, host_id: str) -> str:
        """For calls to one host; kept for half of its life, because signing takes longer than a lookup."""
        now = time.monotonic()
        until, token = self._calls.get(host_id, (0.0, ""))
        if now >= until:
            token = self._sign(host_id, CALL_TOKEN_SEC)
            self._calls[host_id] = (now + CALL_TOKEN_SEC / 2, token)
        return token

    def certify(self, csr_pem: str, host_id: str, address: Address | None) -> str:
        """A certificate for the key in the request. Names come from us, whatever the request asks for.

        :raises InvalidRequest:
        """
        csr = _read_csr(csr_pem)
        names: list[x509.GeneralName] = [x509.DNSName(server_name(host_id))]
        if address is not None:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(address.host)))
            except ValueError:
                names.append(x509.DNSName(address.host))
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_id)]))
            .issuer_name(self.ca_certificate.subject)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))  # the host's clock may be behind ours
            .not_valid_after(now + dt.timedelta(days=self.certificate_days))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.public_key()), critical=False
            )
            .sign(self.ca, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def client_context(self) -> ssl.SSLContext:
        """Trusts hosts that we certified, and nobody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.ca_pem)
        return context

    def _sign(self, audience: str, lifetime: int, **claims: object) -> str:
        now = int(time.time())
        payload = {"iss": ISSUER, "aud": audience, "iat": now, "exp": now + lifetime, **claims}
        return jwt.encode(payload, self.signing, algorithm="EdDSA")

    def _read(self, token: str, audience: str) -> dict[str, object]:
        try:
            return jwt.decode(
                token,
                self.signing.public_key(),
                algorithms=["EdDSA"],
                audience=audience,
                issuer=ISSUER,
                options={"require": ["exp", "aud", "iss"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthorized("the token has expired", code="token_expired") from error
        except jwt.InvalidTokenError as error:
            raise Unauthorized("the token is not valid") from error


def server_name(host_id: str) -> str:
    """The name in a host's certificate that we verify: it names the host, not where it is."""
    return f"{host_id.replace('_', '-')}.hosts.wrenn.internal"


async def load(db: Database, certificate_days: int = CERTIFICATE_DAYS) -> Keys:
    """Makes the keys when there are none. Replicas that start at once end up with the same."""
    signing = await _get_or_insert(db, "signing", _new_signing)
    ca = await _get_or_insert(db, "ca", _new_ca)
    sealing = await _get_or_insert(db, "sealing", sealer.new)
    signing_key = serialization.load_pem_private_key(signing.private_pem.encode(), None)
    ca_key = serialization.load_pem_private_key(ca.private_pem.encode(), None)
    if not isinstance(signing_key, ed25519.Ed25519PrivateKey) or not isinstance(
        ca_key, ec.EllipticCurvePrivateKey
    ):
        raise TypeError("table platform_keys holds keys of another kind")
    return Keys(
        signing_key,
        signing.public_pem,
        ca_key,
        x509.load_pem_x509_certificate(ca.public_pem.encode()),
        Sealer(sealing.private_pem),
        certificate_days,
    )


async def _get_or_insert(
    db: Database, name: str, make: Callable[[], tuple[str, str]]
) -> platform_keys.PlatformKeyRow:
    if (found := await platform_keys.get(db, name)) is None:
        private_pem, public_pem = make()
        await platform_keys.insert(db, name=name, private_pem=private_pem, public_pem=public_pem)
        found = await platform_keys.get(db, name)
    if found is None:
        raise LookupError(f"platform key {name} vanished")
    return found


def _new_signing() -> tuple[str, str]:
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return _private_pem(key), public.decode()


def _new_ca() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Wrenn hosts")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(**_CA_USAGE),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    return _private_pem(key), certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private_pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _read_csr(csr_pem: str) -> x509.CertificateSigningRequest:
    if len(csr_pem) > _MAX_CSR:
        raise InvalidRequest("the certificate request is too long")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        valid = csr.is_signature_valid
        key = csr.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise InvalidRequest("csr_pem is not a certificate request in PEM") from error
    if not valid:
        raise InvalidRequest("the certificate request is not signed by its own key")
    if not isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
        raise InvalidRequest("the certificate request must be for an elliptic-curve key (P-256 or Ed25519)")
    return csr
