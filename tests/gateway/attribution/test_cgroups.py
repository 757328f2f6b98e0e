"""Containers by the path of a cgroup: the paths of each runtime, and those of a hostile container."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.gateway.attribution.cgroups import container, group
from egress.records.shape import PROCESS_PATH

ID, OTHER = "3f" * 32, "ab" * 32
POD = "0b5a4b1c-7a3e-4a5e-9a3b-2f6d8c1e9f00"
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD.replace('-', '_')}.slice"


@pytest.mark.parametrize(
    ("path", "runtime", "name"),
    [
        (f"/system.slice/docker-{ID}.scope", "docker", ID),
        (f"/docker/{ID}", "docker", ID),
        (f"/docker/{ID}/inner/group", "docker", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", "podman", ID),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope", "podman", ID),
        (f"/libpod_parent/libpod-{ID}", "podman", ID),
        (f"{SLICE}/cri-containerd-{ID}.scope", "containerd", ID),
        (f"/system.slice/nerdctl-{ID}.scope", "containerd", ID),
        (f"{SLICE}/crio-{ID}.scope", "cri-o", ID),
        (f"/kubepods/burstable/pod{POD}/{ID}", "kubernetes", ID),
        (f"/kubepods/pod{POD}/{ID}", "kubernetes", ID),
        ("/lxc.payload.rome/init.scope", "lxc", "rome"),
        ("/lxc/rome", "lxc", "rome"),
        ("/machine.slice/systemd-nspawn@rome.service/payload", "nspawn", "rome"),
        # A container can give any names to the groups below its own.
        (f"/system.slice/docker-{ID}.scope/docker-{OTHER}.scope", "docker", ID),
        (f"/docker/{ID}/kubepods/pod{POD}/{OTHER}", "docker", ID),
        ("/", "", ""),
        ("/system.slice/ssh.service", "", ""),
        (f"/docker/{ID[:63]}", "", ""),
        (f"/docker/{ID}0", "", ""),
        (f"/system.slice/crio-conmon-{ID}.scope", "", ""),
    ],
)
def test_containers(path: str, runtime: str, name: str) -> None:
    assert container(path) == (runtime, name)


def test_one_path_of_all_hierarchies() -> None:
    first = f"12:memory:/docker/{ID}\n3:cpu:/x\n0::/init.scope\n"
    assert group(first) == f"/docker/{ID}"
    assert group("5:cpu:/a\n0::/b\n") == "/b"
    assert group("5:cpu:/a\n0::/\n") == "/a"
    assert group("0::/\n") == "/"
    assert group("0::/with:colons:in\n") == "/with:colons:in"
    assert group("0::/" + "x" * 5000 + "\n") == "/" + "x" * (PROCESS_PATH - 1)


@given(st.text(max_size=300) | st.text(alphabet="0123456789abcdef/:-\n.docker", max_size=300))
def test_any_text_has_an_answer(text: str) -> None:
    path = group(text)
    assert len(path) <= PROCESS_PATH
    runtime, name = container(path)
    assert bool(runtime) == bool(name)
