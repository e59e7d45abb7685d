"""Debian's PgBouncer as operators run it: transaction mode, TLS, SCRAM and its default port."""

import os
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from subprocess import STDOUT, Popen
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.postgres.faults import PASSWORD, USER, Server
from support.programs import require
from support.service import STOPS_WITHIN, eventually

PORT: Final = 6432
# Fewer than its clients have, so that clients share server connections.
SERVER_CONNECTIONS: Final = 5

_CONFIGURATION: Final = """\
[databases]
* = host={sockets}
[pgbouncer]
listen_addr = {certificate.host}
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = {connections}
auth_type = scram-sha-256
auth_file = {directory}/users
client_tls_sslmode = require
client_tls_cert_file = {certificate.server}
client_tls_key_file = {certificate.key}
"""
_NOBODY: Final = 65534
_CA: Final = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A CA for tests")])
_SERVER: Final = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A server")])


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the certificate of the server at ``host``, its key, and the CA's certificate."""

    host: str
    ca: Path
    server: Path
    key: Path

    @classmethod
    def issued(cls, directory: Path, host: str) -> "Certificate":
        """Issue a certificate for an IP address by a new CA, in a new directory."""
        directory.mkdir()
        names = ("ca.pem", "server.pem", "server.key")
        issued = cls(host, *(directory / name for name in names))
        ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        issued.ca.write_bytes(_signed(_ca(ca_key), ca_key))
        issued.server.write_bytes(_signed(_leaf(key, host), ca_key))
        issued.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return issued

    def context(self) -> ssl.SSLContext:
        """The TLS context of the server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server, self.key)
        return context


def _ca(key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    others = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
    usage = dict.fromkeys(
        (*others, "key_agreement", "crl_sign", "encipher_only", "decipher_only"), False
    )
    return (
        _certificate(_CA, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _leaf(key: ec.EllipticCurvePrivateKey, host: str) -> x509.CertificateBuilder:
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
    return _certificate(_SERVER, key).add_extension(names, critical=False)


def _certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(_CA, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
    )


def _signed(certificate: x509.CertificateBuilder, ca_key: ec.EllipticCurvePrivateKey) -> bytes:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    complete = certificate.add_extension(issuer, critical=False)
    return complete.sign(ca_key, SHA256()).public_bytes(Encoding.PEM)


def operators_url(certificate: Certificate, port: int) -> str:
    """The URL of the database at the certificate's host, as operators write it."""
    return (
        f"postgresql://{USER}:{PASSWORD}@{certificate.host}:{port}/todo"
        f"?sslmode=verify-full&sslrootcert={certificate.ca}"
    )


class PgBouncer:
    """A PgBouncer at the certificate's host. Its files are in the certificate's directory."""

    def __init__(self, server: Server, certificate: Certificate) -> None:
        self.url = operators_url(certificate, PORT)
        self._host = certificate.host
        self._directory = certificate.server.parent
        self._program = require("pgbouncer")
        self._sockets = server.socket.parent
        self._process: Popen[bytes] | None = None
        configuration = _CONFIGURATION.format(
            sockets=self._sockets,
            port=PORT,
            connections=SERVER_CONNECTIONS,
            directory=self._directory,
            certificate=certificate,
        )
        (self._directory / "pgbouncer.ini").write_text(configuration)
        (self._directory / "users").write_text(f'"{USER}" "{PASSWORD}"\n')

    @property
    def log(self) -> str:
        return (self._directory / "pgbouncer.log").read_text()

    def start(self) -> None:
        """Return once it listens. On Linux it ends when the thread that started it ends."""
        with (self._directory / "pgbouncer.log").open("ab") as log:
            self._process = Popen(
                (*self._as_owner(), self._program, self._directory / "pgbouncer.ini"),
                stdout=log,
                stderr=STDOUT,
            )
        assert eventually(self._listens), self.log

    def stop(self) -> None:
        """Disconnect every client at once, as a redeployment of a pooler does."""
        if self._process:
            self._process.terminate()
            self._process.wait(STOPS_WITHIN)

    def _as_owner(self) -> list[str]:
        """The prefix that runs a program as the server's user, who alone may use its socket."""
        owner = self._sockets.stat()
        prefix = ["setpriv", "--pdeathsig=TERM"] if sys.platform == "linux" else []
        if os.geteuid() != 0:
            return prefix
        if owner.st_uid == 0:  # in a user namespace, because neither program runs as root
            mapping = (f"--map-user={_NOBODY}", f"--map-group={_NOBODY}")
            return ["unshare", "--user", *mapping, "--", *prefix]
        for path in (self._directory, *self._directory.iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)
        ids = (f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups")
        return [*prefix, *ids]

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self._host, PORT)) == 0


@contextmanager
def pgbouncer_before(server: Server, certificate: Certificate) -> Iterator[PgBouncer]:
    """A PgBouncer that runs until the end of the block."""
    pooler = PgBouncer(server, certificate)
    pooler.start()
    try:
        yield pooler
    finally:
        pooler.stop()
