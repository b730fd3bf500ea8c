/* call_table.c - two hash tables with chains and a binary heap, over the same structs. */
#include "proto/call_table.h"

#include "base/hash.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* ---- heap of wake times ---- */
static void place(struct call_table *t, struct live *l, int at) {
    t->heap[at] = l;
    l->heap_at = at;
}

static void fix(struct call_table *t, struct live *l) {
    int at = l->heap_at;
    while (at > 0 && l->wake_us < t->heap[(at - 1) / 2]->wake_us) {
        place(t, t->heap[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    for (;;) {
        int child = 2 * at + 1;
        if (child >= t->n) break;
        if (child + 1 < t->n && t->heap[child + 1]->wake_us < t->heap[child]->wake_us) child++;
        if (t->heap[child]->wake_us >= l->wake_us) break;
        place(t, t->heap[child], at);
        at = child;
    }
    place(t, l, at);
}

static void take_out(struct call_table *t, struct live *l) {
    struct live *last = t->heap[--t->n];
    if (last == l) return;
    place(t, last, l->heap_at);
    fix(t, last);
}

void call_table_wake(struct call_table *t, struct live *l, int64_t wake_us) {
    l->wake_us = wake_us;
    fix(t, l);
}

struct live *call_table_first(const struct call_table *t) { return t->n ? t->heap[0] : NULL; }

/* ---- by id ---- */
static struct list *call_bucket(const struct call_table *t, const uint8_t *id) {
    uint64_t a, b;
    memcpy(&a, id, 8);
    memcpy(&b, id + 8, 8);
    return &t->calls[hash_u64(hash_u64(a ^ t->salt) ^ b) & t->mask];
}

struct live *call_table_find(const struct call_table *t, const uint8_t *id) {
    struct list *i, *tmp, *bucket = call_bucket(t, id);
    list_for(i, tmp, bucket) {
        struct live *l = list_entry(i, struct live, node);
        if (!memcmp(l->id, id, sizeof l->id)) return l;
    }
    return NULL;
}

/* ---- by peer ---- */
static bool same_id(const struct bus_id *a, const struct bus_id *b) {
    return a->len == b->len && !memcmp(a->bytes, b->bytes, a->len);
}

bool call_table_is_from(const struct live *l, const struct bus_id *peer) { return same_id(&l->peer->id, peer); }

static struct list *peer_bucket(const struct call_table *t, const struct bus_id *id) {
    return &t->peers[hash_u64(hash_bytes(id->bytes, id->len) ^ t->salt) & t->mask];
}

static struct peer *find_peer(const struct call_table *t, const struct bus_id *id) {
    struct list *i, *tmp, *bucket = peer_bucket(t, id);
    list_for(i, tmp, bucket) {
        struct peer *p = list_entry(i, struct peer, node);
        if (same_id(&p->id, id)) return p;
    }
    return NULL;
}

/* The peer of a call to come; NULL: no memory. */
static struct peer *get_peer(struct call_table *t, const struct bus_id *id) {
    struct peer *p = find_peer(t, id);
    if (p) return p;
    p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->id = *id;
    list_init(&p->calls);
    list_append(peer_bucket(t, id), &p->node);
    return p;
}

static void drop_idle(struct peer *p) {
    if (!list_empty(&p->calls)) return;
    list_remove(&p->node);
    free(p);
}

static void leave_peer(struct live *l) {
    list_remove(&l->of_peer);
    drop_idle(l->peer);
}

static void join_peer(struct live *l, struct peer *p) {
    l->peer = p;
    list_append(&p->calls, &l->of_peer);
}

/* ---- calls ---- */
struct live *call_table_add(struct call_table *t, const uint8_t *id, const struct bus_id *from) {
    struct peer *p = get_peer(t, from);
    if (!p) return NULL;
    struct live *l = calloc(1, sizeof *l);
    if (!l) {
        drop_idle(p);
        return NULL;
    }
    memcpy(l->id, id, sizeof l->id);
    list_init(&l->waiting);
    list_append(call_bucket(t, id), &l->node);
    join_peer(l, p);
    place(t, l, t->n++);
    fix(t, l);
    return l;
}

int call_table_move(struct call_table *t, struct live *l, const struct bus_id *to) {
    struct peer *p = get_peer(t, to);
    if (!p) return ERR_NOMEM;
    leave_peer(l);
    join_peer(l, p);
    return 0;
}

void call_table_remove(struct call_table *t, struct live *l) {
    take_out(t, l);
    list_remove(&l->waiting);
    list_remove(&l->node);
    leave_peer(l);
    free(l->end_message);
    free(l);
}

/* ---- life ---- */
int call_table_init(struct call_table *t, int most) {
    size_t buckets = 64;
    while (buckets < (size_t)most) buckets *= 2;
    *t = (struct call_table){.mask = buckets - 1};
    t->calls = calloc(buckets, sizeof *t->calls);
    t->peers = calloc(buckets, sizeof *t->peers);
    t->heap = calloc((size_t)most + 1, sizeof *t->heap);
    if (!t->calls || !t->peers || !t->heap) {
        call_table_clear(t);
        return ERR_NOMEM;
    }
    for (size_t i = 0; i < buckets; i++) {
        list_init(&t->calls[i]);
        list_init(&t->peers[i]);
    }
    if (getrandom(&t->salt, sizeof t->salt, GRND_NONBLOCK) < 0) t->salt = (uint64_t)(uintptr_t)t; /* early boot */
    return 0;
}

void call_table_clear(struct call_table *t) {
    free(t->calls);
    free(t->peers);
    free(t->heap);
    *t = (struct call_table){0};
}
