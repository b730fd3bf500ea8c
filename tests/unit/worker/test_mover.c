/* test_mover.c - blobs go from one worker to another whole or not at all, whatever comes to the door and whoever fails.
 *
 * usage: test_mover MODEL_DIR */
#include "worker/mover.h"

#include "base/clk.h"
#include "base/log.h"
#include "proto/piece.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tests/unit/run.h"

static const char *model_dir;

struct place { /* two movers and what they meet at */
    struct bus_hub *hub;
    struct backend *backend;
    struct mover *giver, *asker;
    struct why why;
};

static int reach(void *ctx, const char *door, struct bus **out, struct why *why) {
    return bus_mem_connect(ctx, door, out, why);
}

static struct mover *mover(struct place *p, const char *name) {
    struct mover_options o = {.reach = reach, .ctx = p->hub};
    struct mover *m;
    if (name) ck_assert_int_eq(bus_mem_bind(p->hub, name, &o.door, &p->why), 0);
    ck_assert_int_eq(mover_open(&o, &m), 0);
    return m;
}

static void set_up(struct place *p) {
    *p = (struct place){.hub = bus_hub_new()};
    ck_assert_int_eq(backend_open(&(struct backend_options){.isa = "ref", .threads = 1}, &p->backend, &p->why), 0);
    p->giver = mover(p, "giver");
    p->asker = mover(p, NULL);
}

static void tear_down(struct place *p) {
    mover_close(p->giver);
    mover_close(p->asker);
    backend_close(p->backend);
    bus_hub_free(p->hub);
}

/* One slot with a blob of n bytes of payload. */
struct one {
    struct expert_store store;
    struct expert_slot slot;
    int first[2];
};

static void make(struct one *o, struct place *p, size_t n) {
    unsigned char *data = malloc(sizeof(struct blob_header) + n);
    for (size_t i = 0; i < n; i++) data[sizeof(struct blob_header) + i] = (unsigned char)(i * 7 + i / 251);
    struct blob_header h = {.magic = BLOB_MAGIC,
                            .version = BLOB_VERSION,
                            .kind = BLOB_EXPERT,
                            .layer = 3,
                            .expert = 5,
                            .payload_bytes = n,
                            .checksum = XXH3_64bits(data + sizeof h, n)};
    memcpy(data, &h, sizeof h);
    *o = (struct one){.first = {0, 1}, .slot = {.blob = {h, data}}};
    o->store = (struct expert_store){.backend = p->backend, .layers = 1, .first = o->first, .slots = &o->slot};
}

static int ask(struct place *p, const struct one *o, const char *door, unsigned char *out) {
    struct blob_header want = o->slot.blob.header;
    want.checksum = 0; /* that is not known before it comes */
    return mover_fetch(p->asker, door, &want, out, &p->why);
}

START_TEST(whole) {
    static const size_t sizes[] = {1, 1000, PIECE_MOST, PIECE_MOST * 3 - 11, PIECE_MOST * 9 + 1};
    struct place p;
    struct one o;
    set_up(&p);
    make(&o, &p, sizes[_i]);
    size_t bytes = sizeof(struct blob_header) + sizes[_i];
    unsigned char *out = calloc(1, bytes);
    ck_assert_int_eq(ask(&p, &o, "giver", out), ERR_NOT_FOUND); /* nothing is shown */
    mover_show(p.giver, &o.store);
    ck_assert_msg(ask(&p, &o, "giver", out) == 0, "%s", p.why.text);
    ck_assert_mem_eq(out, o.slot.blob.data, bytes);
    o.slot.blob.header.expert = 6;
    mover_show(p.giver, NULL);
    ck_assert_int_eq(ask(&p, &o, "giver", out), ERR_NOT_FOUND);
    tear_down(&p);
    free(o.slot.blob.data);
    free(out);
}
END_TEST

START_TEST(corrupt) {
    struct place p;
    struct one o;
    unsigned char out[4096];
    set_up(&p);
    make(&o, &p, 2000);
    mover_show(p.giver, &o.store);
    o.slot.blob.data[sizeof(struct blob_header) + 1234] ^= 16;
    ck_assert_int_eq(ask(&p, &o, "giver", out), ERR_CORRUPT);
    ck_assert_ptr_nonnull(strstr(p.why.text, "checksum"));
    o.slot.blob.data[sizeof(struct blob_header) + 1234] ^= 16;
    ck_assert_int_eq(ask(&p, &o, "giver", out), 0);
    o.slot.blob.data[offsetof(struct blob_header, content_version)] ^= 1;
    ck_assert_int_eq(ask(&p, &o, "giver", out), ERR_CORRUPT);
    ck_assert_ptr_nonnull(strstr(p.why.text, "another blob"));
    tear_down(&p);
    free(o.slot.blob.data);
}
END_TEST

START_TEST(nobody_there) {
    struct place p;
    struct one o;
    struct bus *mute;
    unsigned char out[4096];
    set_up(&p);
    make(&o, &p, 2000);
    mover_show(p.giver, &o.store);
    ck_assert_int_eq(bus_mem_bind(p.hub, "mute", &mute, &p.why), 0);
    ck_assert_int_eq(ask(&p, &o, "mute", out), ERR_LATE);
    ck_assert_int_lt(ask(&p, &o, "no such door", out), 0);
    ck_assert_int_eq(ask(&p, &o, "giver", out), 0);
    bus_close(mute);
    tear_down(&p);
    free(o.slot.blob.data);
}
END_TEST

/* Whatever is said there, the next question is answered. */
START_TEST(garbage) {
    struct place p;
    struct one o;
    struct bus *stranger;
    unsigned char out[4096];
    unsigned seed = 7;
    set_up(&p);
    make(&o, &p, 2000);
    mover_show(p.giver, &o.store);
    ck_assert_int_eq(bus_mem_connect(p.hub, "giver", &stranger, &p.why), 0);
    for (int i = 0; i < 20000; i++) {
        uint8_t head[2 * PIECE_HEAD];
        struct bus_msg answer;
        size_t len = i % 3 ? PIECE_HEAD : (size_t)rand_r(&seed) % sizeof head;
        piece_pack(&(struct piece){PIECE_WANT, 1, BLOB_EXPERT, 3, 5, (uint64_t)rand_r(&seed) % 3000,
                                   1 + (uint32_t)rand_r(&seed) % 3000},
                   head);
        for (int flips = rand_r(&seed) % 4; flips--;) head[rand_r(&seed) % PIECE_HEAD] ^= (uint8_t)(1 << rand_r(&seed) % 8);
        bus_send(stranger, NULL, head, len, i % 5 ? NULL : head, i % 5 ? 0 : len);
        while (bus_recv(stranger, &answer) >= 0) {
            struct piece said;
            ck_assert(piece_unpack(&said, answer.head, answer.head_len));
            ck_assert(said.kind == PIECE_NONE || answer.body_len == said.n);
        }
    }
    ck_assert_int_eq(ask(&p, &o, "giver", out), 0);
    ck_assert_mem_eq(out, o.slot.blob.data, sizeof(struct blob_header) + 2000);
    bus_close(stranger);
    tear_down(&p);
    free(o.slot.blob.data);
}
END_TEST

/* Answers, at the door of one that is to be trusted, whatever `twist` makes of what was asked. */
struct liar {
    struct bus *door;
    const struct one *o;
    void (*twist)(struct piece *said, const struct piece *asked, size_t *bytes);
    atomic_bool stop;
};

static void *lie(void *arg) {
    struct liar *l = arg;
    struct bus_msg msg;
    struct piece p, said;
    uint8_t head[PIECE_HEAD];
    while (!atomic_load(&l->stop)) {
        struct pollfd fd = {.fd = bus_fd(l->door), .events = POLLIN};
        poll(&fd, 1, 20);
        while (bus_recv(l->door, &msg) >= 0) {
            if (!piece_unpack(&p, msg.head, msg.head_len)) continue;
            size_t n = p.n;
            said = p;
            said.kind = PIECE_PIECE;
            l->twist(&said, &p, &n);
            piece_pack(&said, head);
            bus_send(l->door, &msg.from, head, sizeof head, l->o->slot.blob.data + p.at, n);
        }
    }
    return NULL;
}

static void a_byte_at_a_time(struct piece *said, const struct piece *asked, size_t *bytes) {
    (void)asked;
    said->n = 1;
    *bytes = 1;
}
static void too_short(struct piece *said, const struct piece *asked, size_t *bytes) {
    (void)said, (void)asked;
    --*bytes;
}
static void from_elsewhere(struct piece *said, const struct piece *asked, size_t *bytes) {
    (void)bytes;
    said->at = asked->at + 1;
}
static void a_question(struct piece *said, const struct piece *asked, size_t *bytes) {
    (void)asked, (void)bytes;
    said->kind = PIECE_WANT;
}
static void (*const twists[])(struct piece *, const struct piece *, size_t *) = {a_byte_at_a_time, too_short, from_elsewhere,
                                                                                a_question};

/* What was not asked for ends it at once; the next is asked as if nothing had been. */
START_TEST(liars) {
    struct place p;
    struct one o;
    pthread_t thread;
    unsigned char out[4096];
    set_up(&p);
    make(&o, &p, 2000);
    mover_show(p.giver, &o.store);
    struct liar l = {.o = &o, .twist = twists[_i]};
    ck_assert_int_eq(bus_mem_bind(p.hub, "liar", &l.door, &p.why), 0);
    pthread_create(&thread, NULL, lie, &l);
    ck_assert_int_eq(ask(&p, &o, "liar", out), ERR_PROTOCOL);
    ck_assert_int_eq(ask(&p, &o, "giver", out), 0);
    atomic_store(&l.stop, true);
    pthread_join(thread, NULL);
    bus_close(l.door);
    tear_down(&p);
    free(o.slot.blob.data);
}
END_TEST

struct gate { /* reaching stands still here until it is opened */
    struct bus_hub *hub;
    sem_t open;
    atomic_int passed;
};

static int reach_through(void *ctx, const char *door, struct bus **out, struct why *why) {
    struct gate *g = ctx;
    if (!strcmp(door, "giver")) sem_wait(&g->open);
    atomic_fetch_add(&g->passed, 1);
    return bus_mem_connect(g->hub, "giver", out, why);
}

/* Whose own thread stands still goes on without it; when that turns again, nothing comes to memory that is not its any more. */
START_TEST(standing_still) {
    struct place p;
    struct one o;
    struct gate g = {0};
    unsigned char out[4096], untouched[4096];
    set_up(&p);
    make(&o, &p, 2000);
    mover_show(p.giver, &o.store);
    sem_init(&g.open, 0, 0);
    g.hub = p.hub;
    mover_close(p.asker);
    struct mover_options options = {.reach = reach_through, .ctx = &g, .still_us = 300000};
    ck_assert_int_eq(mover_open(&options, &p.asker), 0);
    memset(out, 0x5a, sizeof out);
    memcpy(untouched, out, sizeof out);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(ask(&p, &o, "giver", out), ERR_LATE);
    ck_assert_msg(strstr(p.why.text, "stood still"), "%s", p.why.text);
    ck_assert_int_eq(atomic_load(&g.passed), 0);
    unsigned char *later = malloc(sizeof out);
    for (int i = 0; i < 1000; i++) sem_post(&g.open);
    while (ask(&p, &o, "by another way", later)) ck_assert_ptr_nonnull(strstr(p.why.text, "stood still"));
    ck_assert_mem_eq(later, o.slot.blob.data, sizeof(struct blob_header) + 2000);
    ck_assert_mem_eq(out, untouched, sizeof out);
    ck_assert_int_ge(atomic_load(&g.passed), 2);
    free(later);
    tear_down(&p);
    sem_destroy(&g.open);
    free(o.slot.blob.data);
}
END_TEST

struct changing {
    struct place *p;
    struct checkpoint *c;
    atomic_bool stop;
    atomic_int got; /* blobs; -1: it went wrong */
};

static void *ask_on(void *arg) {
    struct changing *ch = arg;
    struct blob_header want;
    size_t bytes = blob_describe(&want, &ch->c->config, FMT_F32, BLOB_EXPERT, 0, 0);
    unsigned char *out = malloc(bytes);
    for (int i = 0; !atomic_load(&ch->stop); i++) {
        want.expert = (uint32_t)(i % ch->c->config.gate.experts);
        int rc = mover_fetch(ch->p->asker, "giver", &want, out, &ch->p->why);
        if (rc == 0) atomic_fetch_add(&ch->got, 1);
        if (rc != 0 && rc != ERR_NOT_FOUND) atomic_store(&ch->stop, true), atomic_store(&ch->got, -1);
    }
    free(out);
    return NULL;
}

/* One that changes what it holds meanwhile gives a blob whole or says that it is not there. */
START_TEST(while_it_changes) {
    struct place p;
    struct checkpoint c;
    struct expert_store s;
    struct placement of[2];
    struct load load = {0};
    pthread_t thread;
    set_up(&p);
    ck_assert_int_eq(checkpoint_open(model_dir, &c, &p.why), 0);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(placement_contiguous(&of[i], i + 1, c.config.moe_layers, c.config.gate.experts, &p.why), 0);
    of[0].workers = 2; /* its rank 0 holds all, then half, then all */
    ck_assert_int_eq(expert_store_open(&s, p.backend, &c, NULL, FMT_F32, &of[0], 0, &load, &p.why), 0);
    mover_show(p.giver, &s);
    struct changing ch = {.p = &p, .c = &c};
    pthread_create(&thread, NULL, ask_on, &ch);
    for (int i = 0; i < 60 || !atomic_load(&ch.got); i++)
        ck_assert_int_eq(expert_store_change(&s, &c, NULL, FMT_F32, &of[i % 2], &of[1 - i % 2], 0, &load, &p.why), 0);
    atomic_store(&ch.stop, true);
    pthread_join(thread, NULL);
    ck_assert_msg(atomic_load(&ch.got) > 0, "%s", p.why.text);
    mover_show(p.giver, NULL);
    expert_store_close(&s);
    for (int i = 0; i < 2; i++) placement_clear(&of[i]);
    checkpoint_close(&c);
    tear_down(&p);
}
END_TEST

static int fetch_says;
static int fetch(void *ctx, const struct blob_header *want, unsigned char *out, struct why *why) {
    (void)ctx, (void)want, (void)out;
    snprintf(why->text, sizeof why->text, "as told");
    return fetch_says;
}

/* The first that has it; a failure is counted and the next one asked. */
START_TEST(order_of_sources) {
    struct blob_header h = {.payload_bytes = 100};
    unsigned char out[1];
    struct blob_sources s = {0};
    log_set_level(LOG_ERROR);
    ck_assert(!blob_sources_fetch(&s, &h, out)); /* there is none */
    s.before_disk[SOURCE_PEER] = (struct blob_source){NULL, fetch};
    ck_assert(blob_sources_fetch(&s, &h, out));
    ck_assert_uint_eq(s.count[SOURCE_PEER].bytes, sizeof h + 100);
    fetch_says = ERR_NOT_FOUND;
    ck_assert(!blob_sources_fetch(&s, &h, out));
    ck_assert_uint_eq(s.count[SOURCE_PEER].failed, 0);
    fetch_says = ERR_CORRUPT;
    ck_assert(!blob_sources_fetch(&s, &h, out));
    ck_assert_uint_eq(s.count[SOURCE_PEER].failed, 1);
    ck_assert_uint_eq(s.count[SOURCE_PEER].blobs, 1);
    log_set_level(LOG_WARN);
}
END_TEST

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    model_dir = argv[1];
    TCase *t = tcase_create("mover");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, whole, 0, 5);
    tcase_add_test(t, corrupt);
    tcase_add_test(t, nobody_there);
    tcase_add_test(t, garbage);
    tcase_add_loop_test(t, liars, 0, sizeof twists / sizeof *twists);
    tcase_add_test(t, standing_still);
    tcase_add_test(t, while_it_changes);
    tcase_add_test(t, order_of_sources);
    Suite *s = suite_create("mover");
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
