"""Every status of gRPC becomes the error that the caller's side knows, by one table."""

from __future__ import annotations

import grpc
import pytest

from qingyu_ai.bus.errors import (
    Fault,
    Interrupted,
    Invalid,
    ModelNotAvailable,
    NotFound,
    NoWorker,
    Overloaded,
    SameIdOtherBody,
    SentAway,
)
from services.proxy.errors import DETAILS_KEY, AIProxyError, from_grpc


def raised(code: grpc.StatusCode, details: str = "said", encoded: bytes | None = None) -> AIProxyError:
    trailing = grpc.aio.Metadata(*(((DETAILS_KEY, encoded),) if encoded is not None else ()))
    return from_grpc(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details))


def of(fault: Fault) -> AIProxyError:
    code = next(code for code in grpc.StatusCode if code.value[0] == fault.code)
    return raised(code, fault.message, fault.status)


TABLE = {
    "DEADLINE_EXCEEDED": ("TIMEOUT", 504, "AI服务响应超时", True),
    "UNAVAILABLE": ("SERVICE_UNAVAILABLE", 503, "AI服务不可用", True),
    "INVALID_ARGUMENT": ("VALIDATION", 400, "said", False),
    "RESOURCE_EXHAUSTED": ("RATE_LIMIT", 429, "AI服务资源耗尽", True),
    "UNAUTHENTICATED": ("UNAUTHENTICATED", 401, "said", False),
    "PERMISSION_DENIED": ("PERMISSION_DENIED", 403, "said", False),
    "NOT_FOUND": ("NOT_FOUND", 404, "said", False),
    "ALREADY_EXISTS": ("ALREADY_EXISTS", 409, "said", False),
    "CANCELLED": ("CANCELLED", 499, "请求已取消", False),
    "INTERNAL": ("INTERNAL", 500, "said", False),
    "UNKNOWN": ("INTERNAL", 500, "said", False),
    "DATA_LOSS": ("INTERNAL", 500, "said", False),
    "ABORTED": ("INTERNAL", 500, "said", False),
    "OUT_OF_RANGE": ("INTERNAL", 500, "said", False),
    "UNIMPLEMENTED": ("INTERNAL", 500, "said", False),
    "FAILED_PRECONDITION": ("INTERNAL", 500, "said", False),
}


def test_no_status_is_forgotten() -> None:
    assert set(TABLE) | {"OK"} == {code.name for code in grpc.StatusCode}


@pytest.mark.parametrize(("name", "expected"), TABLE.items(), ids=TABLE)
def test_status_without_details_becomes_its_row(name: str, expected: tuple[str, int, str, bool]) -> None:
    error = raised(grpc.StatusCode[name])
    assert (error.code, error.http_status, error.message, error.retryable) == expected
    assert isinstance(error.__cause__, grpc.aio.AioRpcError)
    trips = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "DATA_LOSS"}
    assert error.trips is (name in trips)


def test_words_of_a_library_that_broke_reach_nobody() -> None:
    error = raised(grpc.StatusCode.UNKNOWN, "Unexpected <class 'KeyError'>: 'secret'")
    assert "secret" not in str(error.to_dict())


def test_field_violations_and_both_languages_are_kept() -> None:
    error = of(Invalid(("options.temperature", "must be between 0 and 2")))
    assert error.to_dict() == {
        "code": "VALIDATION",
        "category": "ai",
        "message": "请求无效：options.temperature：须在 0 到 2 之间",
        "messageEn": "The request is not valid: options.temperature: must be between 0 and 2",
        "httpStatus": 400,
        "service": "ai_proxy",
        "retryable": False,
        "requestId": "",
        "cause": "INVALID_REQUEST",
        "fields": [{"field": "options.temperature", "description": "must be between 0 and 2"}],
    }


def test_fields_have_the_names_of_the_callers_side() -> None:
    names = ("options.max_tokens", "messages[0].role", "parameters.max_len", "user_id", "x-request-id")
    error = of(Invalid(*((name, "is wrong") for name in names)))
    found = [field for field, _ in error.fields]
    assert found == ["options.maxTokens", "messages[0].role", "parameters.max_len", "userId", "x-request-id"]


def test_delay_that_the_other_side_names_is_kept() -> None:
    error = of(NoWorker("rag"))
    assert (error.retry_seconds, error.retryable, error.reason) == (1.0, True, "NO_WORKER")
    assert (error.message, error.english) == ("AI服务不可用", "No rag worker is running; try again in a moment")


@pytest.mark.parametrize(
    ("fault", "retryable"),
    [
        (SentAway(), True),
        (Interrupted(), False),
        (Overloaded("Full", "满"), True),
        (NotFound("tool", "工具", "x"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whether_waiting_helps_is_what_the_other_side_says(fault: Fault, retryable: bool) -> None:
    assert of(fault).retryable is retryable


def test_model_that_is_not_offered_is_an_error_of_its_own() -> None:
    error = of(ModelNotAvailable("gpt-9", ["default"]))
    assert (error.code, error.http_status) == ("5004", 503)
    assert "gpt-9" in error.message
    assert "gpt-9" in error.english


def test_request_id_used_for_something_else_is_a_conflict() -> None:
    assert (of(SameIdOtherBody("r")).http_status, of(SameIdOtherBody("r")).reason) == (409, "REQUEST_ID_REUSED")


def test_details_that_cannot_be_read_are_left_out() -> None:
    assert raised(grpc.StatusCode.NOT_FOUND, "gone", b"\xff\xff\xff").http_status == 404


def test_error_without_a_status_is_internal() -> None:
    error = from_grpc(grpc.RpcError("secret"))
    assert (error.code, error.http_status, error.message) == ("INTERNAL", 500, "AI服务调用失败")
    assert "secret" not in str(error.to_dict())
