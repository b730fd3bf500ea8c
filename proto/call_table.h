/* call_table.h - the calls a server has open: found by id, by the peer that made them, and by when they want attention next.
 *
 * Ids and peers come from the network: the hash is salted, so that nobody can fill one bucket. A peer lives as long as it has
 * calls. Each call has one place in a heap ordered by wake_us. Owner: call.c's server, one thread. */
#pragma once
#include <stdbool.h>

#include "base/list.h"
#include "proto/call.h"
#include "proto/frame.h"

enum live_state { LIVE_OPEN, LIVE_ENDING, LIVE_DOOMED };
struct peer {
    struct list node; /* in its bucket */
    struct list calls;
    struct bus_id id;
};
struct live {
    struct call pub;
    enum live_state state;
    struct list node; /* in its bucket */
    struct list of_peer;
    struct list waiting; /* in one of the server's lists, or in none */
    struct peer *peer;
    uint8_t id[FRAME_CALL_ID_BYTES];
    uint32_t credits;
    uint64_t next_index;
    int64_t sent_us, wake_us; /* last frame to the client; key in the heap: call_table_wake */
    int heap_at;
    int end_status; /* LIVE_ENDING */
    char *end_message;
};

struct call_table {
    struct list *calls, *peers; /* hash buckets: lists of struct live, struct peer */
    size_t mask;
    uint64_t salt;
    struct live **heap; /* [most] */
    int n;
};

int  call_table_init(struct call_table *t, int most); /* most: calls at once; 0 or ERR_NOMEM */
void call_table_clear(struct call_table *t);          /* of an empty one */
struct live *call_table_find(const struct call_table *t, const uint8_t *id);
bool call_table_is_from(const struct live *l, const struct bus_id *peer);
/* A new call, zero but for id and peer, that wants attention at once; the caller has checked n. NULL: no memory. */
struct live *call_table_add(struct call_table *t, const uint8_t *id, const struct bus_id *from);
int  call_table_move(struct call_table *t, struct live *l, const struct bus_id *to); /* to another peer; 0 or ERR_NOMEM */
void call_table_remove(struct call_table *t, struct live *l); /* frees it, and its peer when that was its last */
void call_table_wake(struct call_table *t, struct live *l, int64_t wake_us);
struct live *call_table_first(const struct call_table *t); /* whose wake_us is least; NULL: there is none */
