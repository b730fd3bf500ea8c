/* fuzz_mover.c - blobs between workers: hostile questions at a worker's door, and a worker that answers with whatever it likes.
 *
 * An input is a byte (bit 0: who is hostile, the asker or the giver; bit 1: a blob of several pieces, not of one; bit 2: the
 * giver has it) and a script of what the hostile side says: records of 12 bytes, after some of which a head follows as it is.
 * Every question has at most one answer, with those bytes of the blob alone; who asks gets the blob or an error, never another
 * one; nothing is written to memory that is given up; and afterwards an honest worker's blob comes whole. */
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/bell.h"
#include "proto/piece.h"
#include "tests/fuzz/fuzz.h"
#include "worker/mover.h"

enum { HOSTILE_GIVER = 1, LARGE = 2, SHOWN = 4, RECORD = 12, RAW_MOST = 64, LAYER = 3, EXPERT = 5 };
enum says { AS_ASKED, FLIPPED, OTHER_SIZE, OTHER_PLACE, SHORT, OTHER_TICKET, NONE_OF_ANOTHER, RAW, SAYS };

/* ---- the blob that there is ---- */

static const struct expert_slot *slot_of(bool large) {
    static struct expert_slot slots[2];
    struct expert_slot *s = &slots[large];
    if (s->blob.data) return s;
    struct blob_header h = {
        .magic = BLOB_MAGIC, .version = BLOB_VERSION, .kind = BLOB_EXPERT, .layer = LAYER, .expert = EXPERT};
    h.payload_bytes = large ? 2 * PIECE_MOST + 777 : 2000;
    unsigned char *data = calloc(1, sizeof h + h.payload_bytes);
    FUZZ_CHECK(data);
    for (size_t i = 0; i < h.payload_bytes; i++) data[sizeof h + i] = (unsigned char)(i * 7 + i / 251);
    h.checksum = XXH3_64bits(data + sizeof h, h.payload_bytes);
    memcpy(data, &h, sizeof h);
    *s = (struct expert_slot){.blob = {.header = h, .data = data}};
    return s;
}

static size_t size_of(const struct expert_slot *s) { return sizeof s->blob.header + s->blob.header.payload_bytes; }

/* ---- what is said ---- */

struct script {
    const uint8_t *at;
    size_t left;
    const struct expert_slot *slot;
};

struct record {
    enum says says;
    uint32_t value, other; /* numbers of what is wrong */
    const uint8_t *raw;    /* a head as it is; NULL: none */
    size_t raw_bytes;
};

static uint32_t number(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static bool next_record(struct script *s, struct record *r) {
    if (s->left < RECORD) return false;
    *r = (struct record){(enum says)(s->at[0] % SAYS), number(s->at + 4), number(s->at + 8), NULL, s->at[1] % (RAW_MOST + 1)};
    s->at += RECORD;
    s->left -= RECORD;
    if (r->says != RAW) return true;
    if (r->raw_bytes > s->left) r->raw_bytes = s->left;
    r->raw = s->at;
    s->at += r->raw_bytes;
    s->left -= r->raw_bytes;
    return true;
}

/* ---- a bus that has a script instead of another end ---- */

enum role { DOOR, LIAR, HONEST };
struct fake {
    struct bus bus; /* first */
    enum role role;
    struct bell bell; /* always rung */
    struct script *script;
    bool shown;
    sem_t *begin, *spoken; /* DOOR: awaited before anything is said, so that what is shown is shown; posted when all has been */
    bool begun;
    uint64_t questions, answers;
    struct piece asked[MOVER_AHEAD + 1]; /* and not answered, the oldest first */
    int n_asked;
    uint32_t ticket; /* of the last */
    bool ended;
    uint8_t *head, *body; /* of the message that is out, as long as they are */
};

static int say(struct fake *f, struct bus_msg *out, const void *head, size_t head_len, const void *body, size_t body_len) {
    free(f->head);
    free(f->body);
    f->head = malloc(head_len + 1);
    f->body = body ? malloc(body_len + 1) : NULL;
    FUZZ_CHECK(f->head && (!body || f->body));
    memcpy(f->head, head, head_len);
    if (body) memcpy(f->body, body, body_len);
    *out = (struct bus_msg){.from = {.len = 1}, .head = f->head, .head_len = head_len, .body = f->body, .body_len = body_len};
    return 0;
}

static int say_piece(struct fake *f, struct bus_msg *out, const struct piece *p, const void *body, size_t body_len) {
    uint8_t head[PIECE_HEAD];
    piece_pack(p, head);
    return say(f, out, head, sizeof head, body, body_len);
}

/* A question, true or not; of a message's fields any may be wrong. */
static int ask(struct fake *f, struct bus_msg *out, const struct record *r) {
    struct piece p = {PIECE_WANT, 1, BLOB_EXPERT, LAYER, EXPERT, r->value, r->other};
    if (r->raw) return say(f, out, r->raw, r->raw_bytes, r->raw, r->raw_bytes);
    if (r->says == OTHER_SIZE) p.at %= 4096, p.n = r->other % 4096;
    if (r->says == OTHER_PLACE) p.at = (uint64_t)r->value << 32 | r->other, p.n = 1 + r->value % 99;
    if (r->says == FLIPPED) p.blob ^= r->other, p.at = 0, p.n = 9;
    if (r->says == SHORT) p.layer ^= r->other, p.at = 0, p.n = 9;
    if (r->says == OTHER_TICKET) p.expert ^= r->other, p.at = 0, p.n = 9;
    if (r->says == NONE_OF_ANOTHER) p.kind = (enum piece_kind)(r->value % 5);
    return say_piece(f, out, &p, NULL, 0);
}

/* What a record makes of the answer to p. */
static int answer(struct fake *f, struct bus_msg *out, const struct record *r, const struct piece *p) {
    const unsigned char *data = f->script->slot->blob.data;
    struct piece said = *p;
    size_t n = p->n;
    said.kind = PIECE_PIECE;
    FUZZ_CHECK(p->at + p->n <= size_of(f->script->slot));
    if (r->says == OTHER_SIZE) said.n = r->value, n = r->value < p->n ? r->value : p->n;
    if (r->says == OTHER_PLACE) said.at ^= (uint64_t)r->value << r->other % 40;
    if (r->says == SHORT) n = r->value % (n + 1);
    if (r->says == OTHER_TICKET) said.ticket ^= r->value | 1;
    if (r->says == NONE_OF_ANOTHER) said.kind = PIECE_NONE, said.ticket ^= r->value | 1;
    int rc = say_piece(f, out, &said, data + p->at, n);
    if (r->says == FLIPPED && n) f->body[r->value % n] ^= (uint8_t)(1 << r->other % 8);
    return rc;
}

/* The other worker's answers; when all has been said, that it does not have it, which ends every question. All pieces of a
 * blob are asked for at once. */
static int answers(struct fake *f, struct bus_msg *out) {
    struct record r = {.says = AS_ASKED};
    if (!f->ticket || (f->role == HONEST && !f->n_asked)) return ERR_AGAIN;
    const struct piece p = f->asked[0];
    if (f->role == LIAR && (!f->n_asked || !next_record(f->script, &r))) {
        if (f->ended) return ERR_AGAIN;
        f->ended = true;
        return say_piece(f, out, &(struct piece){.kind = PIECE_NONE, .ticket = f->ticket, .n = 1}, NULL, 0);
    }
    if (r.raw) return say(f, out, r.raw, r.raw_bytes, r.raw, r.raw_bytes);
    if (r.says != OTHER_TICKET && r.says != NONE_OF_ANOTHER)
        memmove(f->asked, f->asked + 1, (size_t)--f->n_asked * sizeof *f->asked);
    return answer(f, out, &r, &p);
}

static int fake_recv(struct bus *b, struct bus_msg *out) {
    struct fake *f = (struct fake *)b;
    struct record r;
    if (f->role != DOOR) return answers(f, out);
    if (!f->begun) sem_wait(f->begin);
    f->begun = true;
    if (next_record(f->script, &r)) return f->questions++, ask(f, out, &r);
    if (!f->ended) sem_post(f->spoken);
    f->ended = true;
    return ERR_AGAIN;
}

static void check_answer(struct fake *f, const struct piece *p, const void *body, size_t body_len) {
    const struct expert_slot *s = f->script->slot;
    FUZZ_CHECK(++f->answers <= f->questions && (p->kind == PIECE_PIECE || p->kind == PIECE_NONE));
    if (p->kind == PIECE_NONE) {
        FUZZ_CHECK(!body_len);
        return;
    }
    FUZZ_CHECK(f->shown && p->blob == BLOB_EXPERT && p->layer == LAYER && p->expert == EXPERT);
    FUZZ_CHECK(body_len == p->n && p->at < size_of(s) && p->n <= size_of(s) - p->at);
    FUZZ_CHECK(!memcmp(body, s->blob.data + p->at, p->n));
}

static int fake_send(struct bus *b, const struct bus_id *to, const void *head, size_t head_len, const void *body,
                     size_t body_len) {
    struct fake *f = (struct fake *)b;
    struct piece p;
    (void)to;
    FUZZ_CHECK(piece_unpack(&p, head, head_len));
    if (f->role == DOOR) {
        check_answer(f, &p, body, body_len);
        return 0;
    }
    FUZZ_CHECK(p.kind == PIECE_WANT && !body_len && p.n <= PIECE_MOST);
    if (p.ticket != f->ticket) f->n_asked = 0, f->ended = false; /* another blob */
    FUZZ_CHECK(f->n_asked <= MOVER_AHEAD);
    f->ticket = p.ticket;
    f->asked[f->n_asked++] = p;
    return 0;
}

static int fake_fd(struct bus *b) { return ((struct fake *)b)->bell.fd; }
static const char *fake_endpoint(struct bus *b) { return (void)b, "fake"; }

static void fake_close(struct bus *b) {
    struct fake *f = (struct fake *)b;
    bell_close(&f->bell);
    free(f->head);
    free(f->body);
    free(f);
}

static struct fake *fake_open(enum role role, struct script *s) {
    static const struct bus_ops ops = {
        .send = fake_send, .recv = fake_recv, .fd = fake_fd, .endpoint = fake_endpoint, .close = fake_close};
    struct fake *f = calloc(1, sizeof *f);
    FUZZ_CHECK(f && bell_open(&f->bell) >= 0);
    f->bus.ops = &ops;
    f->role = role;
    f->script = s;
    bell_ring(&f->bell);
    return f;
}

/* ---- a hostile asker ---- */

static void questions(struct script *s, bool shown) {
    static struct backend *backend;
    struct why why;
    struct mover *m;
    sem_t begin, spoken;
    int first[2] = {0, 1};
    struct expert_slot slot = *s->slot;
    if (!backend) FUZZ_CHECK(backend_open(&(struct backend_options){.isa = "ref", .threads = 1}, &backend, &why) >= 0);
    struct expert_store store = {.backend = backend, .layers = 1, .first = first, .slots = &slot};
    struct fake *door = fake_open(DOOR, s);
    sem_init(&begin, 0, 0);
    sem_init(&spoken, 0, 0);
    door->begin = &begin;
    door->spoken = &spoken;
    door->shown = shown;
    FUZZ_CHECK(mover_open(&(struct mover_options){.door = &door->bus}, &m) >= 0);
    if (shown) mover_show(m, &store);
    sem_post(&begin);
    sem_wait(&spoken);
    mover_close(m);
    sem_destroy(&begin);
    sem_destroy(&spoken);
}

/* ---- a hostile giver ---- */

static int reach(void *ctx, const char *door, struct bus **out, struct why *why) {
    (void)why;
    *out = &fake_open(strcmp(door, "liar") ? HONEST : LIAR, ctx)->bus;
    return 0;
}

/* Checks whatever comes; true: it came. The memory is gone at once: the sanitizer sees who still writes there. */
static bool fetch_one(struct mover *m, const char *door, const struct expert_slot *s) {
    struct blob_header want = s->blob.header, got;
    struct why why = {""};
    unsigned char *out = malloc(size_of(s));
    FUZZ_CHECK(out);
    want.checksum = 0;
    int rc = mover_fetch(m, door, &want, out, &why);
    FUZZ_CHECK(rc == 0 || (rc < 0 && strlen(why.text) > 10));
    if (rc == 0) {
        memcpy(&got, out, sizeof got);
        FUZZ_CHECK(XXH3_64bits(out + sizeof got, want.payload_bytes) == got.checksum);
        got.checksum = 0;
        FUZZ_CHECK(!memcmp(&got, &want, sizeof got));
    }
    free(out);
    return rc == 0;
}

static void answers_of(struct script *s) {
    struct mover_options o = {.reach = reach, .ctx = s};
    struct mover *m;
    FUZZ_CHECK(mover_open(&o, &m) >= 0);
    for (int i = 0; i < 2; i++) fetch_one(m, "liar", s->slot);
    FUZZ_CHECK(fetch_one(m, "honest", s->slot));
    mover_close(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    struct script s = {data + 1, size - 1, slot_of(data[0] & LARGE)};
    if (data[0] & HOSTILE_GIVER) answers_of(&s);
    else questions(&s, data[0] & SHOWN);
    return 0;
}

/* ---- seeds ---- */

static size_t put_record(uint8_t *to, enum says says, uint32_t value, uint32_t other) {
    memset(to, 0, RECORD);
    to[0] = (uint8_t)says;
    for (int i = 0; i < 4; i++) to[4 + i] = (uint8_t)(value >> 8 * i), to[8 + i] = (uint8_t)(other >> 8 * i);
    return RECORD;
}

static size_t put_raw(uint8_t *to, const struct piece *p) {
    put_record(to, RAW, 0, 0);
    to[1] = PIECE_HEAD;
    piece_pack(p, to + RECORD);
    return RECORD + PIECE_HEAD;
}

void fuzz_seeds(fuzz_add add) {
    uint8_t b[1024];
    static const uint8_t hows[] = {0, LARGE, SHOWN, SHOWN | LARGE, HOSTILE_GIVER, HOSTILE_GIVER | LARGE};
    for (size_t how = 0; how < sizeof hows; how++) {
        size_t n = 1;
        b[0] = hows[how];
        for (int i = 0; i < 4; i++) n += put_record(b + n, AS_ASKED, (uint32_t)i * 580, 580);
        add(b, n);
        for (int says = AS_ASKED; says < RAW; says++) {
            n = 1 + put_record(b + 1, (enum says)says, 7, 100);
            n += put_record(b + n, AS_ASKED, 0, 2320);
            n += put_record(b + n, (enum says)says, 1 << 20, 3);
            add(b, n);
        }
        n = 1 + put_raw(b + 1, &(struct piece){PIECE_WANT, 9, BLOB_EXPERT, LAYER, EXPERT, 0, 2320});
        n += put_raw(b + n, &(struct piece){PIECE_PIECE, 1, BLOB_EXPERT, LAYER, EXPERT, 0, PIECE_HEAD});
        n += put_raw(b + n, &(struct piece){PIECE_NONE, 1, BLOB_EXPERT, LAYER, EXPERT, UINT64_MAX, PIECE_MOST});
        add(b, n);
    }
}
