/* call_status.c - see call_status.h. */
#include "proto/call_status.h"

#include "base/status.h"

const char *call_status_name(int status) {
    static const char *const names[] = {
        "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
        "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
        "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
        "DATA_LOSS", "UNAUTHENTICATED"};
    return status >= 0 && status < (int)(sizeof names / sizeof *names) ? names[status] : "UNKNOWN";
}

int call_status_from(int err) {
    switch (err) {
    case ERR_INVALID:
    case ERR_PROTOCOL: return CALL_INVALID_ARGUMENT;
    case ERR_UNSUPPORTED: return CALL_UNIMPLEMENTED;
    case ERR_TOO_LARGE:
    case ERR_EXHAUSTED:
    case ERR_NOMEM: return CALL_RESOURCE_EXHAUSTED;
    case ERR_NOT_FOUND: return CALL_NOT_FOUND;
    case ERR_EXISTS: return CALL_ALREADY_EXISTS;
    case ERR_DENIED: return CALL_PERMISSION_DENIED;
    case ERR_CANCELLED: return CALL_CANCELLED;
    case ERR_DEADLINE: return CALL_DEADLINE_EXCEEDED;
    case ERR_AGAIN:
    case ERR_GONE:
    case ERR_LATE:
    case ERR_EPOCH: return CALL_UNAVAILABLE;
    case ERR_CORRUPT: return CALL_DATA_LOSS;
    default: return err >= 0 ? CALL_OK : CALL_INTERNAL;
    }
}
