/* frame.c - struct frame to and from protobuf. */
#include "proto/frame.h"

#include "base/status.h"
#include "proto/client.pb-c.h"

#include <string.h>

static void fill(const Cadre__V1__Frame *m, struct frame *f) {
    f->version = m->version;
    f->call_id = m->call_id.data;
    f->call_id_len = m->call_id.len;
    switch (m->kind_case) {
    case CADRE__V1__FRAME__KIND_OPEN:
        f->kind = FRAME_OPEN;
        f->method = m->open->method;
        f->timeout_ms = m->open->timeout_ms;
        f->credits = m->open->credits;
        return;
    case CADRE__V1__FRAME__KIND_DATA:
        f->kind = FRAME_DATA;
        f->index = m->data->index;
        return;
    case CADRE__V1__FRAME__KIND_CREDIT:
        f->kind = FRAME_CREDIT;
        f->credits = m->credit->more;
        return;
    case CADRE__V1__FRAME__KIND_CANCEL: f->kind = FRAME_CANCEL; return;
    case CADRE__V1__FRAME__KIND_END:
        f->kind = FRAME_END;
        f->status = m->end->status;
        f->message = m->end->message;
        return;
    case CADRE__V1__FRAME__KIND_PING: f->kind = FRAME_PING; return;
    default: f->kind = FRAME_UNKNOWN; return;
    }
}

int frame_decode(const void *head, size_t len, struct frame *out) {
    if (!len || len > FRAME_HEAD_LIMIT) return ERR_PROTOCOL;
    Cadre__V1__Frame *m = cadre__v1__frame__unpack(NULL, len, head);
    if (!m) return ERR_PROTOCOL;
    *out = (struct frame){.method = "", .message = "", .hold = m};
    fill(m, out);
    return 0;
}

void frame_clear(struct frame *f) {
    if (f->hold) cadre__v1__frame__free_unpacked(f->hold, NULL);
    *f = (struct frame){0};
}

const void *frame_metadata(const struct frame *f, const char *key, size_t *len) {
    const Cadre__V1__Frame *m = f->hold;
    size_t n = !m ? 0 : f->kind == FRAME_OPEN ? m->open->n_metadata : f->kind == FRAME_END ? m->end->n_metadata : 0;
    for (size_t i = 0; i < n; i++) {
        const Cadre__V1__Metadata *d = f->kind == FRAME_OPEN ? m->open->metadata[i] : m->end->metadata[i];
        if (strcmp(d->key, key)) continue;
        *len = d->value.len;
        return d->value.data ? d->value.data : (const uint8_t *)"";
    }
    return NULL;
}

int frame_encode(const struct frame *f, uint8_t *buf, size_t cap) {
    Cadre__V1__Frame m = CADRE__V1__FRAME__INIT;
    Cadre__V1__Open open = CADRE__V1__OPEN__INIT;
    Cadre__V1__Data data = CADRE__V1__DATA__INIT;
    Cadre__V1__Credit credit = CADRE__V1__CREDIT__INIT;
    Cadre__V1__Cancel cancel = CADRE__V1__CANCEL__INIT;
    Cadre__V1__End end = CADRE__V1__END__INIT;
    Cadre__V1__Ping ping = CADRE__V1__PING__INIT;
    Cadre__V1__Metadata metadata[FRAME_METADATA_LIMIT], *list[FRAME_METADATA_LIMIT];
    if (f->n_metadata > FRAME_METADATA_LIMIT) return ERR_TOO_LARGE;
    for (int i = 0; i < f->n_metadata; i++) {
        metadata[i] = (Cadre__V1__Metadata)CADRE__V1__METADATA__INIT;
        metadata[i].key = (char *)f->metadata[i].key;
        metadata[i].value = (ProtobufCBinaryData){f->metadata[i].value_len, (uint8_t *)f->metadata[i].value};
        list[i] = &metadata[i];
    }
    m.version = f->version;
    m.call_id.data = (uint8_t *)f->call_id;
    m.call_id.len = f->call_id_len;
    switch (f->kind) {
    case FRAME_OPEN:
        m.kind_case = CADRE__V1__FRAME__KIND_OPEN;
        m.open = &open;
        open.method = (char *)(f->method ? f->method : "");
        open.timeout_ms = f->timeout_ms;
        open.credits = f->credits;
        open.metadata = list;
        open.n_metadata = (size_t)f->n_metadata;
        break;
    case FRAME_DATA:
        m.kind_case = CADRE__V1__FRAME__KIND_DATA;
        m.data = &data;
        data.index = f->index;
        break;
    case FRAME_CREDIT:
        m.kind_case = CADRE__V1__FRAME__KIND_CREDIT;
        m.credit = &credit;
        credit.more = f->credits;
        break;
    case FRAME_CANCEL:
        m.kind_case = CADRE__V1__FRAME__KIND_CANCEL;
        m.cancel = &cancel;
        break;
    case FRAME_END:
        m.kind_case = CADRE__V1__FRAME__KIND_END;
        m.end = &end;
        end.status = f->status;
        end.message = (char *)(f->message ? f->message : "");
        end.metadata = list;
        end.n_metadata = (size_t)f->n_metadata;
        break;
    case FRAME_PING:
        m.kind_case = CADRE__V1__FRAME__KIND_PING;
        m.ping = &ping;
        break;
    case FRAME_UNKNOWN: break;
    }
    size_t len = cadre__v1__frame__get_packed_size(&m);
    if (len > cap) return ERR_TOO_LARGE;
    return (int)cadre__v1__frame__pack(&m, buf);
}
