"""gRPC reflection, as v1 and as v1alpha, so that grpcurl needs no proto files.

grpcio-reflection ships v1alpha alone. v1 is the same file in another package
(grpc/grpc-proto, grpc/reflection/v1/reflection.proto), so the v1 service is the same servicer under
the other name, and its descriptor is made from v1alpha's: the bytes on the wire are equal.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1_SERVICE = "grpc.reflection.v1.ServerReflection"
_V1_FILE = "grpc/reflection/v1/reflection.proto"
_ALPHA, _V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"


def add_reflection(server: grpc.aio.Server, service_names: Iterable[str]) -> None:
    """Lets callers list and describe the services, reflection itself included."""
    _describe_v1()
    names = (*service_names, reflection.SERVICE_NAME, V1_SERVICE)
    servicer = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (reflection.SERVICE_NAME, V1_SERVICE):
        method = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers((method,))


def _describe_v1() -> None:
    """Puts v1's descriptor where reflection looks; a second time is no change."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = _V1_FILE, _V1
    file.options.Clear()
    for message in file.message_type:
        for field in (each for each in message.field if each.type_name):
            field.type_name = field.type_name.replace(_ALPHA, _V1)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(_ALPHA, _V1)
        method.output_type = method.output_type.replace(_ALPHA, _V1)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
