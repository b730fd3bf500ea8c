/* bell.h - wakes a thread that sleeps in poll. Rings are counted together: one wake may stand for several. */
#pragma once

struct bell {
    int fd; /* readable while rung; put it in a poll set */
};

int  bell_open(struct bell *b);    /* 0 or ERR_IO */
void bell_close(struct bell *b);
void bell_ring(struct bell *b);    /* any thread */
void bell_clear(struct bell *b);   /* the sleeper, after waking and before looking at its rings */
void bell_wait(struct bell *b);    /* sleeps until rung, then clears */
