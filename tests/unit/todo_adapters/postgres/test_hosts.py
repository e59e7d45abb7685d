"""Which hosts are on this machine, in a private network or public."""

import pytest

from todo_adapters.postgres.hosts import is_local, is_public

LOCAL = ["localhost", "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "/var/run/postgresql"]
PRIVATE = [
    "db",
    "todo_db",
    "dpg-abc123-a",
    "3f2a9c01d4e5",
    "10.0.0.7",
    "172.16.0.1",
    "192.168.1.20",
    "100.100.1.2",
    "169.254.1.1",
    "fd00::7",
    "fdaa:0:18:a7b:7d::2",
    "fe80::1%eth0",
    "::ffff:10.0.0.7",
    "my-db.flycast",
    "my-db.internal",
    "top1.nearest.of.my-db.internal",
    "postgres.railway.internal",
    "ip-10-0-0-7.eu-west-1.compute.internal",
    "host.docker.internal",
    "cluster-rw.default",
    "cluster-rw.default.svc",
    "cluster-rw.default.svc.cluster.local",
    "cluster-rw.team-a",
    "cluster-rw.stage2",
    "postgres.todo_default",
    "postgres.service.consul",
    "db.dns.podman",
    "nas.local",
    "nas.localdomain",
    "db.localhost",
    "nas.lan",
    "nas.home.arpa",
    "db.corp",
    "db.intranet",
    "db.private",
    "db.test",
]
PUBLIC = [
    "ep-cool-lab-a1b2c3d4.eu-central-1.aws.neon.tech",
    "db.example.com",
    "example.com",
    "internal.example.com",
    "svc.example.com",
    "default.com",
    "flycast.dev",
    "db.notinternal",
    "db.production",
    "db.xn--p1ai",
    "8.8.8.8",
    "::ffff:8.8.8.8",
    "2606:4700::1111",
    "134744072",
    "0x08080808",
    "8.8.2056",
    "8.0x80808",
]


@pytest.mark.parametrize("host", LOCAL)
def test_a_local_host_is_on_this_machine(host: str) -> None:
    assert is_local(host)
    assert not is_public(host)


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_host_is_neither_on_this_machine_nor_public(host: str) -> None:
    assert not is_local(host)
    assert not is_public(host)


@pytest.mark.parametrize("host", PUBLIC)
def test_any_other_host_is_public(host: str) -> None:
    assert not is_local(host)
    assert is_public(host)
