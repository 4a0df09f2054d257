"""A booking flow over gRPC, by a client that was generated from host/proto.

Usage: booking.py HOST:PORT, with the generated modules on PYTHONPATH.
"""

import json
import sys

import grpc
from google.rpc import error_details_pb2, status_pb2

import session_manager_pb2 as messages
import session_manager_pb2_grpc as services


def reason(error: grpc.RpcError) -> str:
    """The reason of a refusal, from google.rpc.ErrorInfo."""
    metadata = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    raise AssertionError(status)


def refused(call, request) -> str:
    try:
        call(request, timeout=5)
    except grpc.RpcError as error:
        return reason(error)
    raise AssertionError("not refused")


def main() -> None:
    with grpc.insecure_channel(sys.argv[1]) as channel:
        sessions = services.SessionManagerStub(channel)
        key = messages.GetSessionRequest(session_key="from-python")
        assert refused(sessions.GetSession, key) == "SESSION_NOT_FOUND"
        request = json.dumps({"area": "Jakarta"}).encode()
        written = sessions.SetSession(
            messages.SessionData(session_key="from-python", fleet_list_request=request), timeout=5
        )
        assert (written.message, written.version) == ("OK", 1)
        response = json.dumps([{"fleet": "MPV", "price": 45000}]).encode()
        sessions.SetSession(
            messages.SessionData(session_key="from-python", fleet_list_response=response), timeout=5
        )
        session = sessions.GetSession(key, timeout=5)
        assert (session.fleet_list_request, session.fleet_list_response) == (request, response)
        assert session.version == 2 and session.HasField("expires_at")
        stale = messages.SessionData(
            session_key="from-python", fleet_list_request=request, if_version=1
        )
        assert refused(sessions.SetSession, stale) == "VERSION_MISMATCH"
        sessions.DeleteSession(key, timeout=5)
        assert refused(sessions.GetSession, key) == "SESSION_NOT_FOUND"
    print("done")


if __name__ == "__main__":
    main()
