/* frame.h - one frame of the client protocol as a plain struct, and its encoded form (client.proto, message Frame).
 *
 * Decoding checks only that the bytes are a Frame; what the fields mean is the business of call.c and client/. Both sides of
 * the protocol and its tests share this file, so that they cannot disagree. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum {
    FRAME_VERSION = 1,
    FRAME_CALL_ID_BYTES = 16,
    FRAME_METADATA_LIMIT = 32,
    FRAME_HEAD_LIMIT = 64 << 10, /* an encoded frame is small; its payload is not part of it */
};
enum frame_kind { FRAME_UNKNOWN, FRAME_OPEN, FRAME_DATA, FRAME_CREDIT, FRAME_CANCEL, FRAME_END, FRAME_PING };

struct frame_metadata {
    const char *key;         /* lower case */
    const void *value;
    size_t value_len;
};
struct frame {
    enum frame_kind kind;    /* FRAME_UNKNOWN: a kind this version does not know */
    uint32_t version;
    const uint8_t *call_id;  /* any length when decoded */
    size_t call_id_len;
    const char *method;      /* Open; NUL-terminated */
    uint64_t timeout_ms;     /* Open */
    uint32_t credits;        /* Open: the grant, Credit: how many more */
    uint64_t index;          /* Data */
    uint32_t status;         /* End */
    const char *message;     /* End; NUL-terminated */
    const struct frame_metadata *metadata; /* to encode: Open, End */
    int n_metadata;
    void *hold;              /* owns what the pointers of a decoded frame point to */
};

/* 0 with *out set (frame_clear it), or ERR_PROTOCOL. */
int  frame_decode(const void *head, size_t len, struct frame *out);
void frame_clear(struct frame *f);
/* A value of a decoded Open's or End's metadata, or NULL. */
const void *frame_metadata(const struct frame *f, const char *key, size_t *len);
/* Bytes written, or ERR_TOO_LARGE. Strings must be UTF-8. */
int  frame_encode(const struct frame *f, uint8_t *buf, size_t cap);
