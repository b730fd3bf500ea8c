/* setup.c - owns what a Welcome brought. */
#include "worker/setup.h"

#include <stdlib.h>
#include <string.h>

static const char *door(const struct peer *p) { return p->door ? p->door : ""; }

int worker_setup_peers(struct worker_setup *s, const struct peer *peers, int n) {
    size_t head = sizeof *peers * (size_t)n, bytes = head;
    for (int i = 0; i < n; i++) bytes += peers[i].address_bytes + strlen(door(&peers[i])) + 1;
    s->peers = malloc(bytes + 1);
    if (!s->peers) return ERR_NOMEM;
    if (n) memcpy(s->peers, peers, head);
    uint8_t *at = (uint8_t *)s->peers + head;
    for (int i = 0; i < n; i++) {
        if (peers[i].address_bytes) memcpy(at, peers[i].address, peers[i].address_bytes);
        s->peers[i].address = at;
        at += peers[i].address_bytes;
        size_t len = strlen(door(&peers[i])) + 1;
        s->peers[i].door = memcpy(at, door(&peers[i]), len);
        at += len;
    }
    s->n_peers = n;
    return 0;
}

void worker_setup_clear(struct worker_setup *s) {
    placement_clear(&s->placement);
    free(s->peers);
    free(s->held_by);
    s->peers = NULL;
    s->held_by = NULL;
    s->n_peers = 0;
}
