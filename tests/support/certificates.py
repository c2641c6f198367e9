"""Certificates for servers on this machine, valid for an hour, which only those trust who are told to."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class SelfSigned:
    certificate: Path
    """PEM; also what a client has to trust."""
    key: Path

    def server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))


def self_signed(directory: Path, *names: str, serial: int = 1) -> SelfSigned:
    """:param names: IP addresses and DNS names, wildcards included"""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _builder(key, "wrenn test", serial, ca=True).add_extension(
        _alternatives(names), critical=False
    )
    made = SelfSigned(directory / "certificate.pem", directory / "key.pem")
    _write(made.certificate, certificate.sign(key, hashes.SHA256()))
    _write_key(made.key, key)
    return made


@dataclass(frozen=True, slots=True)
class Signed:
    """As a public authority would issue it: some TLS libraries refuse a server that presents the authority itself."""

    authority: Path
    """PEM; what a client has to trust."""
    certificate: Path
    key: Path


def signed(directory: Path, *names: str) -> Signed:
    """:param names: IP addresses and DNS names, wildcards included"""
    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _builder(root, "wrenn test authority", 1, ca=True).sign(root, hashes.SHA256())
    certificate = _builder(key, "wrenn test", 2, ca=False, issuer=authority.subject)
    certificate = certificate.add_extension(_alternatives(names), critical=False)
    made = Signed(directory / "authority.pem", directory / "certificate.pem", directory / "key.pem")
    _write(made.authority, authority)
    _write(made.certificate, certificate.sign(root, hashes.SHA256()))
    _write_key(made.key, key)
    return made


def _builder(
    key: ec.EllipticCurvePrivateKey, name: str, serial: int, *, ca: bool, issuer: x509.Name | None = None
) -> x509.CertificateBuilder:
    """:param issuer: None: itself"""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )


def _alternatives(names: tuple[str, ...]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_general(name) for name in names])


def _write(file: Path, certificate: x509.Certificate) -> None:
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
