/* hops.h - does a step's dispatch go straight to every worker, or once to each other host and on from there (fabric/ep.h)?
 *
 * Fewer rows cross between hosts in two hops, and some of them wait for a second hop. What that takes follows from counting and
 * from what the links were measured to do: with experts used evenly, a token with k of E experts wants
 *   N (1 - C(E - E/N, k) / C(E, k))
 * of N groups of them: hosts, when each is sent it once, or workers. A hop takes its link's latency and its bytes at the link's
 * rate; the worker with most tokens decides. Uneven use and replicas make fewer copies of both kinds, hosts are taken to be of
 * one size. Results never depend on it, only times. Pure; owner: the coordinator's loop. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct hops_link {
    double latency_us;   /* of a small frame, one way */
    double bytes_per_us; /* of large ones; 0: the link is not known */
};
struct hops {
    int forced; /* 1 or 2: the operator's choice; 0: compute */
    int workers, hosts;
    int experts, topk; /* E, k; 0 experts: nothing is dispatched */
    size_t row_bytes;  /* of a token's row as it is dispatched */
    struct hops_link inside, between; /* hosts: the slowest of each kind */
};
struct hops_cost { /* of one dispatch; sent by a worker, and for two hops also passed on by it */
    double direct_us, two_us;
    double direct_far, two_far; /* rows to other hosts */
};

/* How many of so many equal groups of experts a token wants. */
double hops_groups(int experts, int groups, int topk);
/* For a worker with so many tokens; times are 0 while links are not known. */
struct hops_cost hops_cost(const struct hops *h, int tokens);
/* 1 or 2 hops for a step whose fullest worker has so many tokens in each of its microbatches. */
int hops_choose(const struct hops *h, int tokens);
/* The fewest tokens for which that is 2, looking no further than `most`; 0: never. */
int hops_two_from(const struct hops *h, int most);
/* The slower of two figures for a link, part by part; an unknown one says nothing. */
struct hops_link hops_slower(struct hops_link a, struct hops_link b);
