/* test_fabric_ucx.c - the fabric's contract over UCX on loopback: between processes, and between handles of one process for
 * what needs a certain order of events. Deaths are in test_fabric_ucx_deaths.c. */
#include <netinet/in.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include "base/hash.h"
#include "fabric/link_ucx.h"
#include "tests/unit/fabric/fabric_case.h"
#include "tests/unit/fabric/procs.h"

#include "tests/unit/run.h"

enum { PATIENCE_US = 60000000 };

/* ---- between processes ---- */

static int ranks, frames;
static bool at_once = true;
static size_t frame_bytes;

static int contract_main(struct board *b, int rank, uint32_t incarnation, struct why *why) {
    struct fabric *f = NULL;
    int rc = fabric_ucx_open_as(rank, ranks, &(struct fabric_net){.devices = "lo"}, at_once, &f, why);
    if (rc == 0) rc = procs_meet(b, f, frame_bytes, incarnation, why);
    if (rc == 0) rc = fabric_case_run(f, 7, frames, false, PATIENCE_US, why);
    fabric_close(f);
    return rc;
}

static void run(int n_ranks, int n_frames, size_t bytes) {
    struct why why;
    ranks = n_ranks;
    frames = n_frames;
    frame_bytes = bytes;
    ck_assert_msg(procs_run(contract_main, ranks, &why) == 0, "%s", why.text);
}

START_TEST(contract) { run(_i, 1000, 3000); }
END_TEST
START_TEST(contract_of_large_frames) { run(_i, 60, 1 << 20); }
END_TEST
START_TEST(contract_of_requests) { /* as where there is RDMA */
    at_once = false;
    run(2, 500, _i ? 1 << 20 : 3000);
    at_once = true;
}
END_TEST
START_TEST(both_ways_at_once) { run(2, 40, 8 << 20); } /* far beyond what lies in sockets */
END_TEST
START_TEST(more_ranks_than_cores) { run(8, 100, 20000); }
END_TEST

/* ---- between handles of one process ---- */

enum { FRAME_BYTES = 20000, HANDLES = 2 };
static struct fabric *handles[HANDLES];
static const uint8_t *secrets[HANDLES];

static void open_rank(int rank, uint32_t incarnation) {
    struct why why;
    struct fabric_net net = {.devices = "lo", .secret = secrets[rank]};
    ck_assert_msg(fabric_ucx_open(rank, HANDLES, &net, &handles[rank], &why) == 0, "%s", why.text);
    ck_assert_msg(fabric_prepare(handles[rank], FRAME_BYTES, incarnation, &why) == 0, "%s", why.text);
}

static void attach(int rank, uint32_t incarnation) {
    unsigned char address[FABRIC_ADDRESS_BYTES];
    struct why why;
    size_t bytes = fabric_address(handles[!rank], address);
    ck_assert_msg(fabric_attach(handles[rank], !rank, incarnation, address, bytes, &why) == 0, "%s", why.text);
}

static void open_two(void) {
    open_rank(0, 1);
    open_rank(1, 2);
    attach(0, 2);
    attach(1, 1);
}

static void close_two(void) {
    for (int i = 0; i < HANDLES; i++) { /* nobody is there to hear a bye */
        if (handles[i]) fabric_detach(handles[i], !i);
        fabric_close(handles[i]);
        handles[i] = NULL;
    }
}

/* Lets all handles work for a turn; the test fails when this goes on for ever. */
static void turn(int64_t *deadline_us) {
    if (!*deadline_us) *deadline_us = clk_now_us() + PATIENCE_US;
    if (clk_now_us() >= *deadline_us) ck_abort_msg("nothing happens any more");
    for (int i = 0; i < HANDLES; i++)
        if (handles[i]) fabric_poll(handles[i]);
}

static bool try_send(int from, int value, size_t bytes) {
    int *room = fabric_reserve(handles[from], !from, bytes);
    if (!room) return false;
    *room = value;
    fabric_commit(handles[from], !from, bytes);
    return true;
}

static void send_value(int from, int value) {
    int64_t deadline_us = 0;
    while (!try_send(from, value, value % 3 ? sizeof(int) : FRAME_BYTES)) turn(&deadline_us);
}

static const int *receive(int to) {
    int64_t deadline_us = 0;
    const int *got;
    size_t bytes;
    while (!(got = fabric_take(handles[to], !to, &bytes))) turn(&deadline_us);
    return got;
}

static void expect(int to, int value) {
    const int *got = receive(to);
    ck_assert_int_eq(*got, value);
    fabric_give(handles[to], !to, got);
}

static void no_room(int from) { ck_assert_ptr_null(fabric_reserve(handles[from], !from, 4)); }

/* A stream takes FABRIC_DEPTH frames and no more; each that is given back makes room for one, whichever it is. */
START_TEST(full_and_room) {
    const int *got[FABRIC_DEPTH];
    open_two();
    for (int i = 0; i < FABRIC_DEPTH; i++) send_value(0, i);
    no_room(0);
    for (int i = 0; i < FABRIC_DEPTH; i++) {
        got[i] = receive(1);
        ck_assert_int_eq(*got[i], i);
        no_room(0);
    }
    for (int i = FABRIC_DEPTH - 1; i >= 0; i--) {
        ck_assert_int_eq(*got[i], i);
        fabric_give(handles[1], 0, got[i]);
        send_value(0, 100 - i);
        no_room(0);
    }
    for (int i = FABRIC_DEPTH - 1; i >= 0; i--) expect(1, 100 - i);
    close_two();
}
END_TEST

/* Nothing is lost when one end attaches long after the other, nor when it waits with its first frame. */
START_TEST(late_attachment) {
    int64_t deadline_us = 0;
    open_rank(0, 1);
    open_rank(1, 2);
    attach(_i, _i ? 1 : 2);
    for (int i = 0; i < 1000; i++) {
        no_room(_i);
        turn(&deadline_us);
    }
    attach(!_i, _i ? 2 : 1);
    attach(!_i, _i ? 2 : 1); /* once more says nothing new */
    for (int i = 0; i < 20; i++) {
        send_value(_i, i);
        send_value(!_i, -i);
        expect(!_i, i);
        expect(_i, -i);
    }
    close_two();
}
END_TEST

static void expect_after(int to, int value) { /* others may come before it */
    for (bool found = false; !found;) {
        const int *got = receive(to);
        found = *got == value;
        fabric_give(handles[to], !to, got);
    }
}

/* One end, or the other, or both, let go and attach again, in whatever state the streams are; then frames flow as at first. */
START_TEST(attached_again) {
    open_two();
    for (int round = 1; round <= 60; round++) {
        uint64_t draw = hash_u64((uint64_t)round);
        int first = (int)(draw >> 20 & 1);
        int64_t deadline_us = 0;
        size_t bytes;
        for (uint64_t n = draw % 20; n; n--) try_send((int)(n % 2), -1, n % 5 ? 4 : FRAME_BYTES);
        for (uint64_t n = draw >> 8 & 15; n; n--) turn(&deadline_us);
        const int *kept = draw >> 16 & 1 ? fabric_take(handles[first], !first, &bytes) : NULL;
        if (draw >> 17 & 1) fabric_detach(handles[!first], first);
        fabric_detach(handles[first], !first);
        attach(first, first ? 1 : 2);
        if (draw >> 17 & 1) attach(!first, first ? 2 : 1);
        send_value(first, round);
        expect_after(!first, round);
        for (int i = 0; i < FABRIC_DEPTH; i++) send_value(!first, i);
        for (int i = 0; i < FABRIC_DEPTH; i++) expect(first, i);
        if (!kept) continue;
        ck_assert_int_eq(*kept, -1);
        fabric_give(handles[first], !first, kept);
    }
    close_two();
}
END_TEST

/* Frames of a life that ended vanish, but for those that were taken. */
START_TEST(successor) {
    open_two();
    for (int i = 0; i < 4; i++) send_value(1, 10 + i);
    const int *kept = receive(0);
    int64_t busy_us = procs_cpu_us();
    fabric_close(handles[1]); /* waits for an answer to its bye, and that nobody gives */
    busy_us = procs_cpu_us() - busy_us;
    ck_assert_int_lt(busy_us, 300000); /* of a second, in which it sleeps */
    for (uint32_t life = 3; life < 20; life++) {
        open_rank(1, life);
        attach(1, 1);
        attach(0, life);
        send_value(1, (int)life);
        expect(0, (int)life);
        send_value(0, -1);
        expect(1, -1);
        if (life % 2) send_value(1, 7); /* never taken */
        if (life % 3) fabric_detach(handles[0], 1);
        if (life != 11) fabric_detach(handles[1], 0); /* else it waits for that answer, too */
        fabric_close(handles[1]);
    }
    ck_assert_int_eq(*kept, 10);
    fabric_give(handles[0], 1, kept);
    handles[1] = NULL;
    close_two();
}
END_TEST

/* Who cannot be reached when it is attached (here: for want of a file descriptor) is connected to when it greets. */
START_TEST(unreachable_at_first) {
    struct rlimit limit, none;
    int spare = dup(0);
    open_rank(0, 1);
    open_rank(1, 2);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = limit;
    none.rlim_cur = (rlim_t)spare;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    attach(0, 2);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    no_room(0);
    attach(1, 1);
    for (int i = 0; i < 20; i++) {
        send_value(0, i);
        send_value(1, -i);
        expect(1, i);
        expect(0, -i);
    }
    close(spare);
    close_two();
}
END_TEST

enum { PEER_ATTACHES_AGAIN, LET_GO, LET_GO_AND_ATTACHED, NEVER_COMMITTED, WAYS_TO_LOSE };

/* Room that was reserved is written and committed whatever became of the link since; the frame is lost, later ones are not. */
START_TEST(lost_reservation) {
    int first = _i == PEER_ATTACHES_AGAIN; /* who attaches again */
    open_two();
    for (int i = 0; i < 10; i++) {
        send_value(1, i);
        expect(0, i);
        send_value(0, i);
        expect(1, i);
        int *room = fabric_reserve(handles[0], 1, FRAME_BYTES);
        ck_assert_ptr_nonnull(room);
        fabric_detach(handles[first], !first);
        if (_i != LET_GO) attach(first, first ? 1 : 2);
        if (first) send_value(1, 100); /* by then rank 0 has begun again, too */
        memset(room, -1, FRAME_BYTES);
        if (_i != NEVER_COMMITTED) fabric_commit(handles[0], 1, FRAME_BYTES);
        if (_i == LET_GO) attach(0, 2);
        if (!first) send_value(0, 100);
        expect_after(!first, 100);
    }
    close_two();
}
END_TEST

START_TEST(refusals) {
    struct fabric *f = NULL;
    struct why why;
    unsigned char address[FABRIC_ADDRESS_BYTES];
    ck_assert_int_eq(fabric_ucx_open(2, 2, &(struct fabric_net){0}, &f, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_ucx_open(0, FABRIC_MAX_RANKS + 1, &(struct fabric_net){0}, &f, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_ucx_open(0, 2, &(struct fabric_net){.devices = "no_such_device"}, &f, &why), ERR_IO);
    ck_assert_ptr_nonnull(strstr(why.text, "no_such_device"));
    open_rank(0, 1);
    open_rank(1, 2);
    size_t bytes = fabric_address(handles[1], address);
    ck_assert_uint_le(bytes, sizeof address);
    ck_assert_int_eq(fabric_attach(handles[0], 1, 2, address, sizeof(struct link_address), &why), ERR_PROTOCOL);
    ck_assert_int_eq(fabric_attach(handles[0], 1, 2, address, bytes - 1, &why), ERR_CORRUPT);
    for (size_t i = 0; i < bytes; i++) { /* UCX itself would believe anything */
        address[i] ^= 0x10;
        ck_assert_int_lt(fabric_attach(handles[0], 1, 2, address, bytes, &why), 0);
        address[i] ^= 0x10;
    }
    bytes = fabric_address(handles[0], address);
    ck_assert_int_eq(fabric_attach(handles[0], 1, 2, address, bytes, &why), ERR_PROTOCOL); /* of rank 0 */
    no_room(0);
    fabric_detach(handles[0], 1);
    close_two();
}
END_TEST

/* Who is greeted in vain is not waited for: there is no frame for it. */
START_TEST(nothing_to_flush) {
    open_rank(0, 1);
    open_rank(1, 2);
    attach(0, 2);
    ck_assert_int_eq(fabric_flush(handles[0], clk_now_us() + 100000), 0);
    close_two();
}
END_TEST

START_TEST(deadlines) {
    open_two();
    send_value(0, 1);
    expect(1, 1);
    while (fabric_poll(handles[0])) continue;
    int64_t deadline_us = clk_now_us() + 20000, patience_us = clk_now_us() + PATIENCE_US;
    int rc;
    while ((rc = fabric_wait(handles[0], deadline_us)) == 0) ck_assert_int_lt(clk_now_us(), patience_us);
    ck_assert_int_eq(rc, ERR_DEADLINE);
    ck_assert_int_ge(clk_now_us(), deadline_us);
    close_two();
}
END_TEST

/* ---- lies ---- */

struct liar { /* somebody who knows an address */
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h ep;
    struct link_header header; /* as an attached peer's would be */
    struct proof_key key;      /* of the rank that is lied to */
    unsigned char data[2 * FRAME_BYTES];
};

static void liar_open(struct liar *l, int to) {
    unsigned char address[FABRIC_ADDRESS_BYTES];
    struct link_address head;
    ucp_config_t *config;
    ucp_params_t p = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_AM};
    ucp_worker_params_t w = {0};
    l->key = proof_key(NULL, address, fabric_address(handles[to], address));
    memcpy(&head, address, sizeof head);
    ck_assert_int_eq(ucp_config_read(NULL, NULL, &config), UCS_OK);
    ck_assert_int_eq(ucp_config_modify(config, "TLS", "tcp"), UCS_OK);
    ck_assert_int_eq(ucp_init(&p, config, &l->context), UCS_OK);
    ucp_config_release(config);
    ck_assert_int_eq(ucp_worker_create(l->context, &w, &l->worker), UCS_OK);
    ucp_ep_params_t e = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS,
                         .address = (const ucp_address_t *)(address + sizeof head)};
    ck_assert_int_eq(ucp_ep_create(l->worker, &e, &l->ep), UCS_OK);
    fabric_address(handles[!to], address);
    memcpy(&head, address, sizeof head);
    l->header = (struct link_header){.nonce = head.nonce, .incarnation = 2, .rank = 1, .session = 1, .you = 1};
}

static void liar_say(struct liar *l, unsigned id, const void *header, size_t header_bytes, size_t bytes, uint32_t flags) {
    ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = flags};
    ucs_status_ptr_t r = ucp_am_send_nbx(l->ep, id, header, header_bytes, l->data, bytes, &p);
    ck_assert(!UCS_PTR_IS_ERR(r));
    for (int64_t deadline_us = 0; UCS_PTR_IS_PTR(r) && ucp_request_check_status(r) == UCS_INPROGRESS; turn(&deadline_us))
        ucp_worker_progress(l->worker);
    if (UCS_PTR_IS_PTR(r)) ucp_request_free(r);
}

static void liar_close(struct liar *l) {
    ucp_worker_destroy(l->worker);
    ucp_cleanup(l->context);
}

/* Messages of every wrong kind, none of which may be taken for a frame, make room, or disturb the true peer. */
START_TEST(lies) {
    static struct liar l;
    open_two();
    send_value(1, 5);
    expect(0, 5);
    send_value(0, 6);
    expect(1, 6);
    liar_open(&l, 0);
    for (int i = 0; i < 2000; i++) {
        struct link_header h = l.header;
        uint64_t draw = hash_u64((uint64_t)i);
        size_t bytes = draw >> 8 & 1 ? sizeof l.data : draw >> 9 & 1 ? 0 : 100, header_bytes = sizeof h;
        h.number = 1;
        switch (draw % 9) {
        case 0: h.nonce ^= draw | 1; break;
        case 1: h.incarnation = 3; break;
        case 2: h.rank = (uint16_t)(draw >> 16 & 1 ? 0 : draw >> 17); break; /* its own, or beyond all */
        case 3: h.session = 0; break;
        case 4: h.you = (uint32_t)(draw >> 16 | 2); break;
        case 5: h.number = draw >> 16 & 1 ? 0 : draw; break; /* taken already, or far ahead */
        case 6: header_bytes = draw >> 16 & 31; break;
        case 7: bytes = sizeof l.data; break;
        default: bytes = FRAME_BYTES + 65; break;
        }
        if (h.rank == 1 && draw % 9 == 2) h.rank = 0xffff;
        h.given = draw;
        link_header_seal(&h, &l.key); /* a member of the cluster that went mad */
        unsigned id = bytes <= FRAME_BYTES && draw >> 10 & 1 ? LINK_NOTICE : LINK_FRAME;
        liar_say(&l, id, &h, header_bytes, bytes, draw >> 11 & 1 ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER);
    }
    liar_close(&l);
    for (int i = 0; i < 50; i++) {
        send_value(1, i);
        send_value(0, -i);
        expect(0, i);
        expect(1, -i);
    }
    close_two();
}
END_TEST

/* ---- strangers ---- */

static const uint8_t secret[PROOF_SECRET_BYTES] = {1, 2, 3}, another[PROOF_SECRET_BYTES] = {1, 2, 4};

static void still_talking(void) {
    for (int i = 0; i < 20; i++) {
        send_value(1, i);
        send_value(0, -i);
        expect(0, i);
        expect(1, -i);
    }
}

/* Somebody of UCX who knows the address, and all that an eavesdropper could, but not the secret: what a member would say,
 * under keys of their own. Each message is refused, and counted once. */
START_TEST(strangers) {
    static struct liar l;
    enum { MESSAGES = 1000 };
    secrets[0] = secrets[1] = secret;
    open_two();
    still_talking();
    ck_assert_uint_eq(handles[0]->refused, 0);
    liar_open(&l, 0);
    for (int i = 0; i < MESSAGES; i++) {
        struct link_header h = l.header;
        uint64_t draw = hash_u64((uint64_t)i);
        size_t bytes = draw & 1 ? FRAME_BYTES : draw & 2 ? sizeof l.data : 0;
        h.number = 20 + (draw >> 8 & 3); /* the next of the stream */
        h.total = bytes;
        h.session = draw >> 12 & 1 ? 1 : 2;
        h.flags = draw >> 13 & 3;
        h.proof = hash_u64(draw);
        if (draw >> 15 & 1) link_header_seal(&h, &l.key);
        liar_say(&l, draw & 4 ? LINK_NOTICE : LINK_FRAME, &h, sizeof h, bytes,
                 draw & 8 ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER);
    }
    for (int64_t deadline_us = 0; handles[0]->refused < MESSAGES; turn(&deadline_us)) ucp_worker_progress(l.worker);
    ck_assert_uint_eq(handles[0]->refused, MESSAGES);
    still_talking();
    liar_close(&l);
    still_talking();
    close_two();
    secrets[0] = secrets[1] = NULL;
}
END_TEST

/* A worker of another cluster, or one without a key, that was given the true address: neither end takes anything. */
START_TEST(another_secret) {
    secrets[0] = secret;
    secrets[1] = _i ? another : NULL;
    open_two();
    for (int64_t deadline_us = 0; !handles[0]->refused || !handles[1]->refused; turn(&deadline_us)) {
        ck_assert_ptr_null(fabric_reserve(handles[0], 1, 8));
        ck_assert_ptr_null(fabric_reserve(handles[1], 0, 8));
    }
    close_two();
    secrets[0] = secrets[1] = NULL;
}
END_TEST

/* How many of the sockets that listen in this process take a connection from 127.0.0.`from`. */
static int doors_open(int from) {
    struct sockaddr_in me = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + (unsigned)from)}, door;
    struct timeval patience = {.tv_usec = 20000}; /* over loopback it is let in at once or never */
    int n = 0;
    for (int fd = 0; fd < 1024; fd++) {
        int listens = 0;
        socklen_t size = sizeof listens, len = sizeof door;
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 || !listens) continue;
        ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&door, &len), 0);
        int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience), 0);
        ck_assert_int_eq(bind(s, (struct sockaddr *)&me, sizeof me), 0);
        n += connect(s, (struct sockaddr *)&door, sizeof door) == 0;
        close(s);
    }
    return n;
}

/* UCX is not made for strangers: the kernel keeps those away that are on no member's host. */
START_TEST(hosts_of_strangers) {
    secrets[0] = secrets[1] = secret;
    open_rank(0, 1);
    open_rank(1, 2);
    ck_assert_int_eq(doors_open(1) + doors_open(2), 0);
    attach(0, 2);
    attach(1, 1);
    ck_assert_int_eq(doors_open(1), 4); /* two handles, each with a worker for either direction */
    ck_assert_int_eq(doors_open(2), 0);
    still_talking();
    close_two();
    secrets[0] = secrets[1] = NULL;
}
END_TEST

int main(void) {
    Suite *s = suite_create("fabric_ucx");
    TCase *t = tcase_create("fabric_ucx");
    tcase_set_timeout(t, 200);
    tcase_add_loop_test(t, contract, 2, 5);
    tcase_add_loop_test(t, contract_of_large_frames, 2, 5);
    tcase_add_loop_test(t, contract_of_requests, 0, 2);
    tcase_add_test(t, both_ways_at_once);
    tcase_add_test(t, more_ranks_than_cores);
    tcase_add_test(t, full_and_room);
    tcase_add_loop_test(t, late_attachment, 0, 2);
    tcase_add_test(t, attached_again);
    tcase_add_test(t, successor);
    tcase_add_test(t, unreachable_at_first);
    tcase_add_loop_test(t, lost_reservation, 0, WAYS_TO_LOSE);
    tcase_add_test(t, refusals);
    tcase_add_test(t, nothing_to_flush);
    tcase_add_test(t, deadlines);
    tcase_add_test(t, lies);
    tcase_add_test(t, strangers);
    tcase_add_loop_test(t, another_secret, 0, 2);
    tcase_add_test(t, hosts_of_strangers);
    suite_add_tcase(s, t);
    return run_suite(s);
}
