"""A strict verifier accepts the certificates, for their names only."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from hack.testbed.controlplane import pki


def test_server_certificate_is_good_for_its_names_only() -> None:
    authority = pki.Authority.create("authority")
    pair = authority.server("server", ("127.0.0.1", "localhost"))
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    policy = PolicyBuilder().store(Store([authority.certificate]))
    for name in (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))):
        policy.build_server_verifier(name).verify(certificate, [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("example.org")).verify(certificate, [])


def test_client_certificate_carries_user_and_groups() -> None:
    authority = pki.Authority.create("authority")
    certificate = x509.load_pem_x509_certificate(authority.client("alice", ("a", "b")).certificate)
    certificate.verify_directly_issued_by(authority.certificate)
    subject = certificate.subject
    assert [name.value for name in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["alice"]
    assert [name.value for name in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == ["a", "b"]
