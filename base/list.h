/* list.h - intrusive doubly linked list: a node inside the object, a head that is a node. No allocation, no ownership. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *prev, *next;
};

#define list_entry(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
/* The loop may remove the node it stands on. */
#define list_for(pos, tmp, head) for ((pos) = (head)->next; (tmp) = (pos)->next, (pos) != (head); (pos) = (tmp))

static inline void list_init(struct list *l) { l->prev = l->next = l; }
static inline bool list_empty(const struct list *l) { return l->next == l; }
static inline void list_insert_before(struct list *at, struct list *node) {
    node->prev = at->prev;
    node->next = at;
    at->prev->next = node;
    at->prev = node;
}
static inline void list_append(struct list *head, struct list *node) { list_insert_before(head, node); }
static inline void list_remove(struct list *node) { /* leaves node self-linked, so removing twice is harmless */
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}
