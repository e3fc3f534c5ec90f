"""A protoc plugin that writes the Python stubs, for `buf generate`.

The gRPC generator for Python lives inside grpcio-tools' protoc and exists as no plugin of its own, which
is what buf calls. So this speaks the plugin protocol (a CodeGeneratorRequest on stdin, a
CodeGeneratorResponse on stdout) and hands buf's descriptors to that protoc, the one of the build hook.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet

GENERATORS = ("python_out", "pyi_out", "grpc_python_out")


def answer(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Generate for the files that the request names; protoc's complaint, if any, is the response's error."""
    response = CodeGeneratorResponse()
    response.supported_features = CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    files = FileDescriptorSet(file=request.proto_file)
    for file in files.file:
        _drop_implied_json_names(file.message_type)
    with tempfile.TemporaryDirectory(prefix="geniehive-stubs-") as scratch:
        out = Path(scratch, "out")
        out.mkdir()
        descriptors = Path(scratch, "descriptors.binpb")
        descriptors.write_bytes(files.SerializeToString())
        protoc = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={descriptors}"]
        command = [*protoc, *(f"--{name}={out}" for name in GENERATORS), *request.file_to_generate]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own arguments)
        if done.returncode != 0:
            response.error = done.stderr
        for made in sorted(out.rglob("*.py*")):
            response.file.add(name=made.relative_to(out).as_posix(), content=made.read_text(encoding="utf-8"))
    return response


def _drop_implied_json_names(messages: Iterable[DescriptorProto]) -> None:
    """Buf spells out the json_name of every field, protoc only one that the proto names; the stubs embed them."""
    for message in messages:
        for field in message.field:
            if field.json_name == re.sub(r"_+([^_]?)", lambda match: match[1].upper(), field.name):
                field.ClearField("json_name")
        _drop_implied_json_names(message.nested_type)


if __name__ == "__main__":
    asked = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(answer(asked).SerializeToString())
