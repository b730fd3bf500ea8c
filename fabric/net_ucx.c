/* net_ucx.c - see net_ucx.h. */
#include "fabric/net_ucx.h"

#include <dirent.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "fabric/log_ucx.h"

#define SEGMENT "66560" /* LINK_PART and room for headers */

enum { PROGRESS = 32 }; /* rounds of progress in one look, while there is any; each handles one event */

/* TCP alone: parts fit into what UCX sends at once, from our buffer.
 * MAX_POLL: with several socket events per look, UCX 1.13 stops the process when handling one of them finds the socket of a
 * later one broken, so it looks for one at a time.
 * CONN_NB: connecting may not block, for a host that is gone would hold the process for minutes; and of a connection that is
 * refused while UCX waits for it, UCX forgets the socket.
 * ADAPTIVE_PROGRESS: where we have no endpoint, which is so where we receive, UCX would look only after waking a thread. */
static const char *const config_tcp[][2] = {{"TLS", "tcp"},          {"TX_SEG_SIZE", SEGMENT},  {"RX_SEG_SIZE", SEGMENT},
                                            {"ZCOPY_THRESH", "inf"}, {"RNDV_THRESH", "inf"},    {"MAX_POLL", "1"},
                                            {"CONN_NB", "y"},        {"ADAPTIVE_PROGRESS", "n"}};
static const char *const config_any[][2] = {{"TLS", "^sm,self"}, {"MAX_POLL", "1"}, {"CONN_NB", "y"}};

bool net_has_rdma(const char *devices) {
    DIR *d = opendir("/sys/class/infiniband");
    bool found = false;
    for (struct dirent *e; d && !found && (e = readdir(d));)
        found = e->d_name[0] != '.' && (!devices || !*devices || strstr(devices, e->d_name));
    if (d) closedir(d);
    return found;
}

static ucs_status_t open_context(struct net *n, const char *devices, bool tcp) {
    const char *const(*config_of)[2] = tcp ? config_tcp : config_any;
    size_t count = tcp ? sizeof config_tcp / sizeof *config_tcp : sizeof config_any / sizeof *config_any;
    ucp_config_t *config;
    ucp_params_t p = {.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME,
                      .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
                      .name = "cadre"};
    ucs_status_t status = ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK) return status;
    for (size_t i = 0; i < count && status == UCS_OK; i++) status = ucp_config_modify(config, config_of[i][0], config_of[i][1]);
    if (status == UCS_OK && devices && *devices) status = ucp_config_modify(config, "NET_DEVICES", devices);
    if (status == UCS_OK) status = ucp_init(&p, config, &n->context);
    ucp_config_release(config);
    return status;
}

/* *worker stays NULL when there is none. */
static ucs_status_t open_worker(struct net *n, ucp_worker_h *worker) {
    ucp_worker_params_t p = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_EVENTS,
                             .thread_mode = UCS_THREAD_MODE_SERIALIZED,
                             .events = UCP_WAKEUP_TX | UCP_WAKEUP_RX};
    ucp_worker_h made;
    struct epoll_event e = {.events = EPOLLIN};
    int fd = -1;
    ucs_status_t status = ucp_worker_create(n->context, &p, &made);
    if (status != UCS_OK) return status;
    *worker = made;
    status = ucp_worker_get_efd(made, &fd);
    return status == UCS_OK && epoll_ctl(n->fd, EPOLL_CTL_ADD, fd, &e) < 0 ? UCS_ERR_IO_ERROR : status;
}

ucs_status_t net_open(struct net *n, const char *devices, bool tcp) {
    *n = (struct net){.fd = epoll_create1(EPOLL_CLOEXEC)};
    log_ucx_adopt();
    ucs_status_t status = n->fd < 0 ? UCS_ERR_IO_ERROR : open_context(n, devices, tcp);
    if (status == UCS_OK) status = open_worker(n, &n->in);
    if (status == UCS_OK && tcp) status = open_worker(n, &n->out);
    if (!tcp) n->out = n->in;
    return status == UCS_OK ? ucp_worker_get_address(n->in, &n->own, &n->own_bytes) : status;
}

void net_close(struct net *n) {
    if (n->own) ucp_worker_release_address(n->in, n->own);
    if (n->out && n->out != n->in) ucp_worker_destroy(n->out);
    if (n->in) ucp_worker_destroy(n->in);
    if (n->context) ucp_cleanup(n->context);
    if (n->fd >= 0) close(n->fd);
    *n = (struct net){.fd = -1};
}

ucs_status_t net_on(struct net *n, unsigned id, ucp_am_recv_callback_t call, void *arg) {
    ucp_am_handler_param_t p = {.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                                              UCP_AM_HANDLER_PARAM_FIELD_ARG,
                                .id = id,
                                .cb = call,
                                .arg = arg};
    return ucp_worker_set_am_recv_handler(n->in, &p);
}

void net_progress(struct net *n) {
    for (int i = 0; i < PROGRESS && ucp_worker_progress(n->in); i++) continue;
    if (n->out == n->in) return;
    for (int i = 0; i < PROGRESS && ucp_worker_progress(n->out); i++) continue;
}

bool net_arm(struct net *n) { return ucp_worker_arm(n->in) == UCS_OK && (n->out == n->in || ucp_worker_arm(n->out) == UCS_OK); }

void net_doze(struct net *n, int64_t left_us) {
    struct pollfd fd = {.fd = n->fd, .events = POLLIN};
    if (net_arm(n)) poll(&fd, 1, (int)(left_us / 1000 + 1));
}
