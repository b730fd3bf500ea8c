/* bus_mem.c - the bus inside one process, for tests and the simulator. Behaves like the ZeroMQ one: bounded queues per peer,
 * a vanished peer answers ERR_GONE, clients may connect before anyone listens, and whoever listens next at a place where
 * somebody did has them all, as new peers.
 *
 * A hub holds named places. A place has one inbox (what clients sent to whoever listens there) and its clients, each with an
 * inbox of its own. One mutex per hub guards all queues; messages are copied in and handed out without a further copy. A bell
 * is rung when an inbox stops being empty and cleared, under the mutex, when it was found empty. */
#include "base/bell.h"
#include "base/list.h"
#include "proto/bus.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_MESSAGES = 1000 }; /* per client and direction, like the ZeroMQ bus */

struct parcel {
    struct list node;
    struct bus_msg msg;
    uint8_t bytes[];
};
struct inbox {
    struct list parcels;
    int count;
    struct bell bell;
};
struct place {
    struct list node; /* in the hub */
    struct list clients;
    struct inbox inbox;
    bool bound;
    char name[64];
};
struct bus_hub {
    pthread_mutex_t lock;
    struct list places;
    uint64_t next_client;
};
struct bus_mem {
    struct bus bus;
    struct bus_hub *hub;
    struct place *place;
    bool server;
    struct list node; /* in the place's clients */
    uint64_t id;
    int queued;          /* mine, in the place's inbox */
    uint64_t lost;       /* how often whoever listened went */
    struct inbox inbox;  /* clients only */
    struct parcel *held; /* given out by the last recv */
};

static struct bus_mem *mem_of(struct bus *b) { return (struct bus_mem *)((char *)b - offsetof(struct bus_mem, bus)); }

static int inbox_open(struct inbox *q) {
    list_init(&q->parcels);
    q->count = 0;
    return bell_open(&q->bell);
}

static void inbox_empty(struct inbox *q) {
    struct list *i, *tmp;
    list_for(i, tmp, &q->parcels) {
        list_remove(i);
        free(list_entry(i, struct parcel, node));
    }
    q->count = 0;
    bell_clear(&q->bell);
}

static void inbox_close(struct inbox *q) {
    inbox_empty(q);
    bell_close(&q->bell);
}

static void inbox_put(struct inbox *q, struct parcel *p) {
    list_append(&q->parcels, &p->node);
    if (q->count++ == 0) bell_ring(&q->bell);
}

static struct parcel *parcel_new(const void *head, size_t head_len, const void *body, size_t body_len) {
    struct parcel *p = malloc(sizeof *p + head_len + body_len);
    if (!p) return NULL;
    p->msg = (struct bus_msg){
        .from.len = sizeof(uint64_t), .from_operator = true, .head = p->bytes, .head_len = head_len};
    if (head_len) memcpy(p->bytes, head, head_len);
    if (body) {
        p->msg.body = p->bytes + head_len;
        p->msg.body_len = body_len;
        if (body_len) memcpy(p->bytes + head_len, body, body_len);
    }
    return p;
}

static struct bus_mem *client_by_id(struct place *place, uint64_t id) {
    struct list *i, *tmp;
    list_for(i, tmp, &place->clients) {
        struct bus_mem *m = list_entry(i, struct bus_mem, node);
        if (m->id == id) return m;
    }
    return NULL;
}

/* Under the hub's lock. */
static int deliver(struct bus_mem *m, const struct bus_id *to, struct parcel *p) {
    if (!m->server) {
        if (m->queued >= QUEUE_MESSAGES) return ERR_AGAIN;
        m->queued++;
        inbox_put(&m->place->inbox, p);
        return 0;
    }
    uint64_t id;
    if (to->len != sizeof id) return ERR_GONE;
    memcpy(&id, to->bytes, sizeof id);
    struct bus_mem *client = client_by_id(m->place, id);
    if (!client) return ERR_GONE;
    if (client->inbox.count >= QUEUE_MESSAGES) return ERR_AGAIN;
    inbox_put(&client->inbox, p);
    return 0;
}

static int send_to(struct bus *b, const struct bus_id *to, const void *head, size_t head_len, const void *body,
                   size_t body_len) {
    struct bus_mem *m = mem_of(b);
    struct parcel *p = parcel_new(head, head_len, body, body_len);
    if (!p) return ERR_NOMEM;
    pthread_mutex_lock(&m->hub->lock);
    memcpy(p->msg.from.bytes, &m->id, sizeof m->id);
    int rc = deliver(m, to, p);
    pthread_mutex_unlock(&m->hub->lock);
    if (rc < 0) free(p);
    return rc;
}

static int recv_from(struct bus *b, struct bus_msg *out) {
    struct bus_mem *m = mem_of(b);
    struct inbox *q = m->server ? &m->place->inbox : &m->inbox;
    free(m->held);
    m->held = NULL;
    pthread_mutex_lock(&m->hub->lock);
    if (q->count) {
        m->held = list_entry(q->parcels.next, struct parcel, node);
        list_remove(&m->held->node);
        q->count--;
        if (m->server) {
            uint64_t id;
            memcpy(&id, m->held->msg.from.bytes, sizeof id);
            struct bus_mem *client = client_by_id(m->place, id);
            if (client) client->queued--;
        }
    } else {
        bell_clear(&q->bell);
    }
    pthread_mutex_unlock(&m->hub->lock);
    if (!m->held) return ERR_AGAIN;
    *out = m->held->msg;
    return 0;
}

static int fd_of(struct bus *b) {
    struct bus_mem *m = mem_of(b);
    return m->server ? m->place->inbox.bell.fd : m->inbox.bell.fd;
}

static const char *endpoint_of(struct bus *b) { return mem_of(b)->place->name; }

static void close_bus(struct bus *b) {
    struct bus_mem *m = mem_of(b);
    pthread_mutex_lock(&m->hub->lock);
    if (m->server) {
        m->place->bound = false;
        inbox_empty(&m->place->inbox);
        struct list *i, *tmp;
        list_for(i, tmp, &m->place->clients) {
            struct bus_mem *client = list_entry(i, struct bus_mem, node);
            client->queued = 0;
            client->lost++;
            client->id = ++m->hub->next_client;
            bell_ring(&client->inbox.bell);
        }
    } else {
        list_remove(&m->node);
        inbox_close(&m->inbox);
    }
    pthread_mutex_unlock(&m->hub->lock);
    free(m->held);
    free(m);
}

static void link_of(struct bus *b, struct bus_link *out) {
    struct bus_mem *m = mem_of(b);
    pthread_mutex_lock(&m->hub->lock);
    *out = (struct bus_link){.up = m->server || m->place->bound || !m->lost, .lost = m->lost};
    pthread_mutex_unlock(&m->hub->lock);
}

static const struct bus_ops mem_ops = {send_to, recv_from, fd_of, endpoint_of, close_bus, NULL, link_of};

struct bus_hub *bus_hub_new(void) {
    struct bus_hub *h = calloc(1, sizeof *h);
    if (!h) return NULL;
    pthread_mutex_init(&h->lock, NULL);
    list_init(&h->places);
    return h;
}

void bus_hub_free(struct bus_hub *h) {
    if (!h) return;
    struct list *i, *tmp;
    list_for(i, tmp, &h->places) {
        struct place *p = list_entry(i, struct place, node);
        inbox_close(&p->inbox);
        free(p);
    }
    pthread_mutex_destroy(&h->lock);
    free(h);
}

/* Under the hub's lock; NULL when there is no memory or no descriptor for a new one. */
static struct place *place_by_name(struct bus_hub *h, const char *name) {
    struct list *i, *tmp;
    list_for(i, tmp, &h->places) {
        struct place *p = list_entry(i, struct place, node);
        if (!strcmp(p->name, name)) return p;
    }
    struct place *p = calloc(1, sizeof *p);
    if (!p || strlen(name) >= sizeof p->name || inbox_open(&p->inbox) < 0) return free(p), NULL;
    memcpy(p->name, name, strlen(name) + 1);
    list_init(&p->clients);
    list_append(&h->places, &p->node);
    return p;
}

/* Under the hub's lock. */
static int attach(struct bus_mem *m, const char *name, struct why *why) {
    m->place = place_by_name(m->hub, name);
    if (!m->place) return fail(why, ERR_NOMEM, "bus: cannot make the place '%s'", name);
    if (m->server) {
        if (m->place->bound) return fail(why, ERR_EXISTS, "bus: somebody listens at '%s' already", name);
        m->place->bound = true;
        return 0;
    }
    if (inbox_open(&m->inbox) < 0) return fail(why, ERR_IO, "bus: no descriptor left to connect to '%s'", name);
    m->id = ++m->hub->next_client;
    list_append(&m->place->clients, &m->node);
    return 0;
}

static int open_bus(struct bus_hub *h, bool server, const char *name, struct bus **out, struct why *why) {
    struct bus_mem *m = calloc(1, sizeof *m);
    if (!m) return fail(why, ERR_NOMEM, "bus: out of memory");
    m->bus.ops = &mem_ops;
    m->hub = h;
    m->server = server;
    pthread_mutex_lock(&h->lock);
    int rc = attach(m, name, why);
    pthread_mutex_unlock(&h->lock);
    if (rc < 0) return free(m), rc;
    *out = &m->bus;
    return 0;
}

int bus_mem_bind(struct bus_hub *h, const char *name, struct bus **out, struct why *why) {
    return open_bus(h, true, name, out, why);
}

int bus_mem_connect(struct bus_hub *h, const char *name, struct bus **out, struct why *why) {
    return open_bus(h, false, name, out, why);
}
