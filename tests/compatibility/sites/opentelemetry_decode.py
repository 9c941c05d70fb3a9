"""Print an export request as JSON: the tests have no protobuf."""

from __future__ import annotations

import json
import sys

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def flat(attributes):
    return {one["key"]: next(iter(one["value"].values()), None) for one in attributes}


request = MessageToDict(ExportTraceServiceRequest.FromString(sys.stdin.buffer.read()))
spans = []
for of_resource in request["resourceSpans"]:
    resource = flat(of_resource["resource"]["attributes"])
    for of_scope in of_resource["scopeSpans"]:
        for span in of_scope["spans"]:
            span["attributes"] = flat(span.get("attributes", ()))
            span["service"] = resource["service.name"]
            spans.append(span)
print(json.dumps(spans))
