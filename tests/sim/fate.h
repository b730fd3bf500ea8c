/* fate.h - what befalls one cluster, drawn from a seed: its shape, who is struck, when and how, who comes back. Pure. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FATE_WORKERS = 8, FATE_BLOWS = 4 };

enum blow_how {
    BLOW_KILL,   /* kill -9 */
    BLOW_VANISH, /* its host is gone: silence */
    BLOW_STOP,   /* SIGSTOP; it goes on when it was declared dead, or a moment later */
    BLOW_PAUSE,  /* the same for a moment that nobody may notice */
    BLOW_CUT,    /* cut off from all others, its control connection is not */
    BLOW_DEAF,   /* nothing gets to it any more */
    BLOW_MUTE,   /* nothing of it gets out */
    BLOW_HOWS
};
enum blow_when {
    BLOW_AFTER_TOKENS,
    BLOW_AT_ONCE, /* with the one before */
    /* while the others recover from the one before: this one has been told of the epoch; has prepared it; is to switch to it;
     * got the first plan of it */
    BLOW_AT_EPOCH,
    BLOW_AT_PREPARED,
    BLOW_AT_SWITCH,
    BLOW_AT_PLAN,
    BLOW_WHENS
};
struct blow {
    enum blow_how how;
    enum blow_when when;
    uint64_t tokens;
    int rank;
};
enum restart { /* of the coordinator, killed once */
    RESTART_NONE,
    RESTART_APART, /* at some tokens, whatever befalls the workers */
    RESTART_WITH,  /* the first blow strikes while there is none */
    RESTART_AFTER, /* right after the first blow */
    RESTARTS
};
enum newcomer { NEWCOMER_LIVES, NEWCOMER_DIES_LOADING, NEWCOMER_DIES_READY };
struct fate {
    int workers, hosts, hops, microbatches;
    int fault_percent; /* of frames: late, repeated, overtaken, each */
    int late_us;       /* one of the survivors takes so long to prepare */
    bool tight;        /* one worker fewer cannot hold the model: requests wait */
    bool comes_back;   /* the dead, while requests run; else they stay away to the end */
    bool drains;       /* once drain_tokens are there */
    uint64_t drain_tokens;
    enum newcomer newcomer; /* the first one */
    enum restart restart;
    uint64_t restart_tokens;
    int torn;    /* bytes of its journal's end that are lost */
    int away_ms; /* until another comes */
    int n;
    struct blow blow[FATE_BLOWS];
};

/* Tokens of all requests together: what `tokens` are drawn from. The same seed, the same fate. */
void fate_draw(struct fate *f, uint64_t seed, uint64_t tokens);
void fate_say(const struct fate *f, char *buf, size_t cap);
