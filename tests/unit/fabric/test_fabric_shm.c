/* test_fabric_shm.c - the fabric's contract across forked processes and across threads; fullness, wakes, deadlines, successors,
 * peers that lie, and addresses that are refused. Deaths are in test_fabric_shm_deaths.c. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>

#include "base/hash.h"
#include "fabric/slots.h"
#include "tests/unit/fabric/board.h"
#include "tests/unit/fabric/ep_case.h"
#include "tests/unit/fabric/fabric_case.h"

#include "tests/unit/run.h"

enum { PATIENCE_US = 20000000, FRAME_BYTES = 300 };

/* ---- ranks of one process: each opens the other's memory just as another process would ---- */

static struct fabric *open_rank(int rank, int size) {
    struct fabric *f;
    struct why why;
    ck_assert_msg(fabric_shm_open(rank, size, &f, &why) == 0, "%s", why.text);
    ck_assert_msg(fabric_prepare(f, FRAME_BYTES, (uint32_t)rank + 1, &why) == 0, "%s", why.text);
    return f;
}

static void attach(struct fabric *f, struct fabric *to, uint32_t incarnation) {
    unsigned char address[FABRIC_ADDRESS_BYTES];
    struct why why;
    size_t bytes = fabric_address(to, address);
    ck_assert_msg(fabric_attach(f, to->rank, incarnation, address, bytes, &why) == 0, "%s", why.text);
}

static void open_two(struct fabric **a, struct fabric **b) {
    *a = open_rank(0, 2);
    *b = open_rank(1, 2);
    attach(*a, *b, 2);
    attach(*b, *a, 1);
    ck_assert_int_eq(fabric_wait(*a, 0), 0); /* an attachment is news */
    ck_assert_int_eq(fabric_wait(*b, 0), 0);
}

static bool try_int(struct fabric *f, int to, int value) {
    int *room = fabric_reserve(f, to, sizeof *room);
    if (!room) return false;
    *room = value;
    fabric_commit(f, to, sizeof *room);
    return true;
}

static void send_int(struct fabric *f, int to, int value) { ck_assert(try_int(f, to, value)); }

static const int *take_int(struct fabric *f, int from, int value) {
    size_t bytes;
    const int *got = fabric_take(f, from, &bytes);
    ck_assert_ptr_nonnull(got);
    ck_assert_uint_eq(bytes, sizeof *got);
    ck_assert_int_eq(*got, value);
    return got;
}

static void no_frame(struct fabric *f, int from) {
    size_t bytes;
    ck_assert_ptr_null(fabric_take(f, from, &bytes));
}

START_TEST(full_and_room) {
    struct fabric *a, *b;
    const int *got[FABRIC_DEPTH];
    open_two(&a, &b);
    no_frame(b, 0);
    for (int i = 0; i < FABRIC_DEPTH; i++) send_int(a, 1, i);
    ck_assert_ptr_null(fabric_reserve(a, 1, 4));
    for (int i = 0; i < FABRIC_DEPTH; i++) got[i] = take_int(b, 0, i);
    no_frame(b, 0);
    for (int i = FABRIC_DEPTH - 1; i > 0; i--) { /* in any order; each makes room at once */
        fabric_give(b, 0, got[i]);
        send_int(a, 1, 100 - i);
        ck_assert_ptr_null(fabric_reserve(a, 1, 4));
    }
    ck_assert_int_eq(*got[0], 0);
    for (int i = FABRIC_DEPTH - 1; i > 0; i--) fabric_give(b, 0, take_int(b, 0, 100 - i));
    fabric_give(b, 0, got[0]);
    fabric_close(a);
    fabric_close(b);
}
END_TEST

START_TEST(wait_keeps_its_deadline) {
    struct fabric *a, *b;
    open_two(&a, &b);
    int64_t start = clk_now_us();
    ck_assert_int_eq(fabric_wait(a, start + 20000), ERR_DEADLINE);
    ck_assert_int_ge(clk_now_us() - start, 20000);
    ck_assert_int_eq(fabric_wait(a, start), ERR_DEADLINE); /* already past */
    send_int(b, 0, 1);
    ck_assert_int_eq(fabric_wait(a, start), 0);            /* news count even then */
    ck_assert_int_eq(fabric_wait(a, start), ERR_DEADLINE); /* once */
    fabric_close(a);
    fabric_close(b);
}
END_TEST

struct runner {
    pthread_t thread;
    struct fabric *f;
    uint64_t seed;
    int rc;
    struct why why;
};

static void *wait_until_told(void *arg) {
    struct runner *r = arg;
    r->rc = fabric_wait(r->f, clk_now_us() + PATIENCE_US);
    return NULL;
}

/* A sleeper is woken by a frame, and by room when it was refused some. */
START_TEST(wakes) {
    struct fabric *a, *b;
    open_two(&a, &b);
    struct runner r = {.f = a};
    for (int round = 0; round < 30; round++) {
        bool room = round % 2, asleep = round % 3;
        for (int i = 0; room && i < FABRIC_DEPTH; i++) send_int(a, 1, i);
        if (room) ck_assert_ptr_null(fabric_reserve(a, 1, 4));
        pthread_create(&r.thread, NULL, wait_until_told, &r);
        if (asleep) fabric_wait(b, clk_now_us() + 2000); /* for b: nothing; time for a to fall asleep */
        if (room) fabric_give(b, 0, take_int(b, 0, 0));
        else send_int(b, 0, 7);
        pthread_join(r.thread, NULL);
        ck_assert_int_eq(r.rc, 0);
        for (int i = 1; room && i < FABRIC_DEPTH; i++) fabric_give(b, 0, take_int(b, 0, i));
        if (!room) fabric_give(a, 1, take_int(a, 1, 7));
        while (fabric_poll(a) || fabric_poll(b)) continue; /* forget what is left of this round */
    }
    fabric_close(a);
    fabric_close(b);
}
END_TEST

/* Who comes first finds the stream full, and is told when the other one is there. */
START_TEST(one_attaches_first) {
    struct fabric *a = open_rank(0, 2), *b;
    struct why why;
    ck_assert_int_eq(fabric_shm_open(1, 2, &b, &why), 0);
    no_frame(a, 1);
    ck_assert_ptr_null(fabric_reserve(a, 1, 4)); /* not attached at all */
    attach(a, b, 2);
    while (fabric_poll(a)) continue;
    ck_assert_ptr_null(fabric_reserve(a, 1, 4)); /* the other is not even prepared */
    ck_assert_int_eq(fabric_prepare(b, FRAME_BYTES, 2, &why), 0);
    ck_assert_ptr_null(fabric_reserve(a, 1, 4));
    ck_assert_int_eq(fabric_poll(a), 0);
    attach(b, a, 1);
    ck_assert_int_eq(fabric_poll(a), 1);
    send_int(a, 1, 5);
    fabric_give(b, 0, take_int(b, 0, 5));
    fabric_close(a);
    fabric_close(b);
}
END_TEST

/* Frames of a predecessor: those that were taken stay readable, the others vanish, and nothing of it reaches the successor. */
START_TEST(successor) {
    struct fabric *a = open_rank(0, 2), *b;
    size_t bytes;
    const int *held[5];
    for (int life = 0; life < 5; life++) {
        struct why why;
        uint32_t incarnation = 10 + (uint32_t)life * 3;
        ck_assert_int_eq(fabric_shm_open(1, 2, &b, &why), 0);
        ck_assert_int_eq(fabric_prepare(b, FRAME_BYTES, incarnation, &why), 0);
        attach(a, b, incarnation);
        attach(b, a, 1);
        no_frame(a, 1);
        for (int i = 0; i < 4; i++) send_int(b, 0, 100 * life + i);
        for (int i = 0; i < 4; i++) send_int(a, 1, i);
        fabric_give(b, 0, take_int(b, 0, 0));
        held[life] = take_int(a, 1, 100 * life);
        if (life % 2) fabric_detach(a, 1);
        if (life % 2) no_frame(a, 1);
        if (life % 2) ck_assert_ptr_null(fabric_reserve(a, 1, 4));
        ck_assert_ptr_nonnull(fabric_reserve(b, 0, 4)); /* dies while writing */
        fabric_close(b);
    }
    for (int life = 0; life < 5; life++) ck_assert_int_eq(*held[life], 100 * life);
    for (int life = 0; life < 4; life++) fabric_give(a, 1, held[life]);
    ck_assert_ptr_nonnull(fabric_take(a, 1, &bytes)); /* of the last one, which nobody has replaced */
    fabric_close(a);
}
END_TEST

/* The same process, detached and attached again: streams go on, without what was in them. */
START_TEST(the_same_again) {
    struct fabric *a, *b;
    open_two(&a, &b);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 3; i++) send_int(a, 1, i);
        const int *held = take_int(b, 0, 0);
        attach(b, a, 1); /* no change */
        fabric_give(b, 0, take_int(b, 0, 1));
        fabric_detach(b, 0);
        fabric_detach(b, 0);
        no_frame(b, 0);
        if (round % 2) fabric_detach(a, 1);
        ck_assert_int_eq(*held, 0);
        if (round % 3) fabric_give(b, 0, held);
        attach(b, a, 1);
        if (round % 3 == 0) fabric_give(b, 0, held);
        attach(a, b, 2);
        no_frame(b, 0);
        for (int i = 0; i < FABRIC_DEPTH; i++) send_int(a, 1, 1000 * round + i);
        ck_assert(!try_int(a, 1, 0));
        for (int i = 0; i < FABRIC_DEPTH; i++) fabric_give(b, 0, take_int(b, 0, 1000 * round + i));
        send_int(b, 0, round);
        fabric_give(a, 1, take_int(a, 1, round));
    }
    fabric_close(a);
    fabric_close(b);
}
END_TEST

/* A frame that was begun before its reader let go of the process, and sent after it took it up again, is whole. */
START_TEST(half_written_meanwhile) {
    struct fabric *a, *b;
    size_t bytes;
    open_two(&a, &b);
    for (int round = 0; round < 5; round++) {
        send_int(a, 1, 1);
        unsigned char *room = fabric_reserve(a, 1, FRAME_BYTES);
        memset(room, round, FRAME_BYTES / 2);
        fabric_detach(b, 0);
        attach(b, a, 1);
        memset(room + FRAME_BYTES / 2, round, FRAME_BYTES / 2);
        fabric_commit(a, 1, FRAME_BYTES);
        const unsigned char *got = fabric_take(b, 0, &bytes);
        ck_assert_ptr_nonnull(got);
        for (int i = 0; i < FRAME_BYTES; i++) ck_assert_int_eq(got[i], round);
        fabric_give(b, 0, got);
        no_frame(b, 0);
    }
    fabric_close(a);
    fabric_close(b);
}
END_TEST

/* Whatever a peer writes into its stream, its reader stays inside the stream, and others' streams stay whole. */
START_TEST(a_peer_lies) {
    struct fabric *a = open_rank(0, 3), *b = open_rank(1, 3), *c = open_rank(2, 3);
    attach(a, b, 2), attach(b, a, 1), attach(a, c, 3), attach(c, a, 1);
    int from_c = 0, next_c = 0;
    for (uint64_t round = 0; round < 20000; round++) {
        uint64_t draw = hash_u64(round);
        unsigned char *room = fabric_reserve(b, 0, FRAME_BYTES);
        static unsigned char *first; /* the first slot: its stream begins a page before */
        if (!first) first = room;
        ck_assert_ptr_nonnull(first);
        if (room) fabric_commit(b, 0, FRAME_BYTES);
        struct slots_shared *s = (struct slots_shared *)(first - sysconf(_SC_PAGESIZE));
        uint64_t value = draw >> 20 & 1 ? hash_u64(draw) : draw >> 24 & 1 ? UINT64_MAX : (draw >> 30) % 64;
        if (draw % 4 == 0) atomic_store(&s->sent[draw >> 8 & 7], value);
        if (draw % 4 == 1) atomic_store(&s->freed[draw >> 8 & 7], value);
        if (draw % 4 == 2) s->bytes[draw >> 8 & 7] = value;
        size_t bytes;
        const unsigned char *got = fabric_take(a, 1, &bytes);
        unsigned sum = 0;
        for (size_t i = 0; got && i < bytes; i++) sum += got[i];
        ck_assert_uint_lt(sum, UINT32_MAX);
        if (got) ck_assert_uint_le(bytes, slots_round(FRAME_BYTES));
        if (got) fabric_give(a, 1, got);
        if (try_int(c, 0, from_c)) from_c++;
        fabric_give(a, 2, take_int(a, 2, next_c++));
        if (draw % 64 == 3) { /* a stream that no number can be found in any more is as good as a silent peer */
            fabric_detach(a, 1), fabric_detach(b, 0);
            attach(a, b, 2), attach(b, a, 1);
        }
    }
    fabric_close(a);
    fabric_close(b);
    fabric_close(c);
}
END_TEST

/* ---- addresses ---- */

static int try_address(struct fabric *f, size_t at, int bytes, struct fabric *to, struct why *why) {
    unsigned char address[FABRIC_ADDRESS_BYTES];
    size_t size = fabric_address(to, address);
    for (size_t i = at; i < at + 8; i++) address[i] ^= 0x15;
    return fabric_attach(f, to->rank, 2, address, bytes < 0 ? size : (size_t)bytes, why);
}

START_TEST(addresses_are_checked) {
    struct fabric *a = open_rank(0, 3), *b = open_rank(1, 3);
    unsigned char address[FABRIC_ADDRESS_BYTES];
    struct why why;
    size_t size = fabric_address(b, address);
    ck_assert_int_eq(try_address(a, 0, -1, b, &why), ERR_PROTOCOL); /* magic */
    ck_assert_int_eq(try_address(a, 8, -1, b, &why), ERR_PROTOCOL); /* version */
    ck_assert_int_eq(try_address(a, 0, 0, b, &why), ERR_PROTOCOL);
    ck_assert_int_eq(try_address(a, 0, (int)size - 1, b, &why), ERR_PROTOCOL);
    ck_assert_int_eq(fabric_attach(a, 2, 9, address, size, &why), ERR_PROTOCOL); /* of another rank */
    ck_assert_ptr_nonnull(strstr(why.text, "rank 1"));
    ck_assert_int_eq(try_address(a, 48, -1, b, &why), ERR_UNSUPPORTED); /* host */
    ck_assert_ptr_nonnull(strstr(why.text, "another host"));
    ck_assert_int_eq(try_address(a, 32, -1, b, &why), 0); /* started at another time: another process, so this one is gone */
    ck_assert_ptr_null(fabric_reserve(a, 1, 4));
    fabric_detach(a, 1);
    ck_assert_int_eq(try_address(a, 40, -1, b, &why), 0); /* nonce: it has the number for something else now */
    ck_assert_ptr_null(fabric_reserve(a, 1, 4));
    fabric_detach(a, 1);
    attach(a, b, 2), attach(b, a, 1);
    send_int(a, 1, 1);
    fabric_close(b);
    fabric_detach(a, 1);
    ck_assert_int_eq(fabric_attach(a, 1, 3, address, size, &why), 0); /* closed meanwhile: silent */
    no_frame(a, 1);
    ck_assert_ptr_null(fabric_reserve(a, 1, 4));
    fabric_close(a);
}
END_TEST

/* A process that has ended is silence, whether its parent has noticed or not. */
START_TEST(an_ended_process) {
    struct board *b = board_new();
    struct fabric *a = open_rank(0, 2), *f;
    struct why why;
    siginfo_t info;
    pid_t pid = fork();
    if (pid == 0) {
        if (fabric_shm_open(1, 2, &f, &why) < 0) board_exit(b, 1, why.text);
        board_publish(b, f, 2);
        board_exit(b, 1, NULL);
    }
    ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    ck_assert_int_eq(board_attach(b, a, 1, 0, &why), 0);
    ck_assert_ptr_null(fabric_reserve(a, 1, 4));
    no_frame(a, 1);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    fabric_detach(a, 1);
    ck_assert_int_eq(board_attach(b, a, 1, 0, &why), 0);
    ck_assert_ptr_null(fabric_reserve(a, 1, 4));
    fabric_close(a);
    board_free(b);
}
END_TEST

/* What one user shares another may not open; that is said, not taken for silence. */
START_TEST(another_user) {
    if (geteuid() != 0) return; /* only root can be somebody else */
    struct board *b = board_new();
    struct fabric *a = open_rank(0, 2), *f;
    struct why why;
    int status;
    board_publish(b, a, 1);
    pid_t pid = fork();
    if (pid == 0) {
        if (setgid(65534) < 0 || setuid(65534) < 0) board_exit(b, 1, "cannot become another user");
        if (fabric_shm_open(1, 2, &f, &why) < 0 || fabric_prepare(f, FRAME_BYTES, 2, &why) < 0) board_exit(b, 1, why.text);
        int rc = board_attach(b, f, 0, PATIENCE_US, &why);
        if (rc != ERR_DENIED || !strstr(why.text, "same user")) board_exit(b, 1, "it could open root's memory");
        fabric_close(f);
        board_exit(b, 1, NULL);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(status == 0, "%x: %s", (unsigned)status, b->rank[1].text);
    fabric_close(a);
    board_free(b);
}
END_TEST

START_TEST(refusals) {
    struct fabric *f = NULL, *other;
    struct why why;
    ck_assert_int_eq(fabric_shm_open(0, 0, &f, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_shm_open(2, 2, &f, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_shm_open(-1, 2, &f, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_shm_open(0, FABRIC_MAX_RANKS + 1, &f, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_shm_open(0, 2, &f, &why), 0);
    ck_assert_int_eq(fabric_prepare(f, 0, 1, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_prepare(f, SIZE_MAX, 1, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_prepare(f, (size_t)1 << 50, 1, &why), 0); /* only numbers so far */
    other = open_rank(1, 2);
    unsigned char address[FABRIC_ADDRESS_BYTES];
    size_t size = fabric_address(other, address);
    ck_assert_int_eq(fabric_attach(f, 1, UINT32_MAX, address, size, &why), ERR_TOO_LARGE);
    ck_assert_int_eq(fabric_attach(f, 1, 1, address, size, &why), ERR_NOMEM);
    ck_assert_ptr_null(fabric_reserve(f, 1, 4));
    fabric_close(f);
    ck_assert_int_eq(fabric_shm_open(0, 2, &f, &why), 0); /* frames of another size: silent */
    ck_assert_int_eq(fabric_prepare(f, FRAME_BYTES + 64, 1, &why), 0);
    attach(f, other, 2), attach(other, f, 1);
    ck_assert_ptr_null(fabric_reserve(f, 1, 4));
    ck_assert_ptr_null(fabric_reserve(other, 0, 4));
    fabric_close(f);
    fabric_close(other);
    fabric_close(NULL);
}
END_TEST

/* Nobody who opened a rank's memory can make it shorter under the others. */
START_TEST(nobody_shrinks_it) {
    struct fabric *a, *b;
    open_two(&a, &b);
    int sealed = 0;
    for (int fd = 0; fd < 64; fd++) {
        char path[32], text[256];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, text, sizeof text - 1);
        if (n < 0 || strncmp(text, "/memfd:", 7) != 0) continue;
        ck_assert_int_eq(ftruncate(fd, 0), -1);
        ck_assert_int_eq(errno, EPERM);
        sealed++;
    }
    ck_assert_int_ge(sealed, 2);
    fabric_close(a);
    fabric_close(b);
}
END_TEST

/* ---- all at once ---- */

static void *run_contract(void *arg) {
    struct runner *r = arg;
    r->rc = fabric_case_run(r->f, r->seed, 200, false, PATIENCE_US, &r->why);
    return NULL;
}

START_TEST(contract_of_threads) {
    struct runner r[8];
    for (int i = 0; i < _i; i++) r[i] = (struct runner){.f = open_rank(i, _i), .seed = 77};
    for (int i = 0; i < _i; i++)
        for (int j = 0; j < _i; j++)
            if (i != j) attach(r[i].f, r[j].f, (uint32_t)j + 1);
    for (int i = 0; i < _i; i++) ck_assert_int_eq(pthread_create(&r[i].thread, NULL, run_contract, &r[i]), 0);
    for (int i = 0; i < _i; i++) pthread_join(r[i].thread, NULL);
    for (int i = 0; i < _i; i++) ck_assert_msg(r[i].rc == 0, "rank %d: %s", i, r[i].why.text);
    for (int i = 0; i < _i; i++) fabric_close(r[i].f);
}
END_TEST

static struct fabric *join(struct board *b, int rank, int size, size_t frame_bytes) {
    struct fabric *f;
    struct why why;
    int rc = fabric_shm_open(rank, size, &f, &why);
    if (rc >= 0) board_publish(b, f, (unsigned)rank + 1);
    if (rc >= 0) rc = fabric_prepare(f, frame_bytes, (uint32_t)rank + 1, &why);
    for (int p = 0; p < size && rc >= 0; p++)
        if (p != rank) rc = board_attach(b, f, p, PATIENCE_US, &why);
    if (rc < 0) board_exit(b, rank, why.text);
    return f;
}

static void one_contract(struct board *b, int rank, int size, uint64_t seed) {
    struct fabric *f = join(b, rank, size, FRAME_BYTES);
    struct why why;
    int rc = fabric_case_run(f, seed, 150, false, PATIENCE_US, &why);
    if (rc < 0) board_exit(b, rank, why.text);
    fabric_close(f);
}

/* Rows of whole lines in frames that are big enough to be written past the caches. */
static void one_big_exchange(struct board *b, int rank, int size, uint64_t seed) {
    struct ep_case c = {.seed = seed, .ranks = size, .layers = 2, .microbatches = 1, .full = true};
    struct ep *ep;
    struct why why;
    uint64_t late;
    c.lim = (struct ep_limits){.max_tokens = 96, .max_slots = 4, .hidden = 256 + (seed % 2 ? 0 : 3), .topk = 4};
    struct fabric *f = join(b, rank, size, ep_frame_bytes(&c.lim, size));
    int rc = ep_new(f, &c.lim, &ep, &why);
    for (uint64_t step = 1; step <= 6 && rc >= 0; step++) {
        snprintf(why.text, sizeof why.text, "step %d", (int)step);
        rc = ep_case_step(&c, ep, rank, 1, step, -1, PATIENCE_US, &late, &why);
    }
    if (rc < 0) board_exit(b, rank, why.text);
    ep_free(ep);
    fabric_close(f);
}

static void one_exchange(struct board *b, int rank, int size, uint64_t seed) {
    struct ep_case c;
    struct ep *ep;
    struct why why;
    uint64_t late;
    ep_case_make(&c, seed, size);
    struct fabric *f = join(b, rank, size, ep_frame_bytes(&c.lim, size));
    int rc = ep_new(f, &c.lim, &ep, &why);
    for (uint64_t step = 1; step <= 8 && rc >= 0; step++) {
        snprintf(why.text, sizeof why.text, "step %d", (int)step);
        rc = ep_case_step(&c, ep, rank, 1, step, -1, PATIENCE_US, &late, &why);
    }
    if (rc < 0) board_exit(b, rank, why.text);
    ep_free(ep);
    fabric_close(f);
}

static void of_processes(int size, uint64_t seed, void (*run)(struct board *b, int rank, int size, uint64_t seed)) {
    struct board *b = board_new();
    pid_t pid[8];
    int status;
    for (int i = 0; i < size; i++) {
        if ((pid[i] = fork()) != 0) continue;
        run(b, i, size, seed);
        board_exit(b, i, NULL);
    }
    for (int i = 0; i < size; i++) {
        ck_assert_int_eq(waitpid(pid[i], &status, 0), pid[i]);
        ck_assert_msg(status == 0, "seed %d, rank %d ended with %x: %s", (int)seed, i, (unsigned)status, b->rank[i].text);
    }
    board_free(b);
}

START_TEST(contract_of_processes) {
    for (uint64_t seed = 1; seed <= 5; seed++) of_processes(_i, seed, one_contract);
}
END_TEST

START_TEST(exchange_of_processes) {
    for (uint64_t seed = 1; seed <= 10; seed++) of_processes(2 + (int)seed % 4, seed, one_exchange);
    for (uint64_t seed = 1; seed <= 6; seed++) of_processes(2 + (int)seed % 2, seed, one_big_exchange);
}
END_TEST

int main(void) {
    Suite *s = suite_create("fabric_shm");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 100);
    tcase_add_test(t, full_and_room);
    tcase_add_test(t, wait_keeps_its_deadline);
    tcase_add_test(t, wakes);
    tcase_add_test(t, one_attaches_first);
    tcase_add_test(t, successor);
    tcase_add_test(t, the_same_again);
    tcase_add_test(t, half_written_meanwhile);
    tcase_add_test(t, a_peer_lies);
    tcase_add_test(t, addresses_are_checked);
    tcase_add_test(t, an_ended_process);
    tcase_add_test(t, another_user);
    tcase_add_test(t, refusals);
    tcase_add_test(t, nobody_shrinks_it);
    tcase_add_loop_test(t, contract_of_threads, 1, 7);
    tcase_add_loop_test(t, contract_of_processes, 1, 7);
    tcase_add_test(t, exchange_of_processes);
    suite_add_tcase(s, t);
    return run_suite(s);
}
