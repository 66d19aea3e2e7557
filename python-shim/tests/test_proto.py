"""The generated messages are those of the contract in this tree."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run

import pytest
from google.protobuf import descriptor_pb2

from adrastea._proto import launcher_pb2 as pb

PROTO = Path(__file__).resolve().parents[2] / "proto"


def _bare(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    def clear(message: descriptor_pb2.DescriptorProto) -> None:
        for field in message.field:
            field.ClearField("json_name")
        for nested in message.nested_type:
            clear(nested)

    file.ClearField("source_code_info")
    for message in file.message_type:
        clear(message)
    return file


@pytest.mark.skipif(not PROTO.is_dir(), reason="an unpacked source distribution has no proto directory")
def test_stubs_are_fresh(tmp_path: Path) -> None:
    out = tmp_path / "set.pb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO)]
    run([*command, f"--descriptor_set_out={out}", "adrastea/v1/launcher.proto"], check=True)
    (wanted,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    held = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    assert _bare(held) == _bare(wanted), "run regenerate.py"
