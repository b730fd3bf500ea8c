/* seat.c - see seat.h. */
#include "worker/seat.h"

#include <poll.h>
#include <unistd.h>

#include "base/clk.h"
#include "worker/port.h"

enum { AGAIN_US = 300 * 1000 };

/* 1: *rank and *size are set; 0: not yet. */
static int listen_once(struct port *p, int *rank, int *size, struct why *why) {
    struct port_message m;
    struct plan *none;
    int rc = port_recv(p, &m, NULL, NULL, &none, why);
    if (rc == ERR_AGAIN) return 0;
    if (rc < 0) return rc;
    if (m.kind == PORT_REFUSE) return fail(why, ERR_DENIED, "the coordinator has no place for this worker: %s", m.reason);
    worker_setup_clear(&m.setup); /* of a message that is not for one that waits for a rank */
    if (m.kind != PORT_SEATED) return fail(why, ERR_PROTOCOL, "the coordinator answers a worker without a rank otherwise");
    *rank = m.rank;
    *size = m.size;
    return 1;
}

int seat_ask(struct bus *bus, int64_t timeout_us, int *rank, int *size, struct why *why) {
    struct port *p;
    char host[256] = "unknown";
    int64_t until = clk_now_us() + timeout_us, next = 0;
    int rc = 0;
    gethostname(host, sizeof host - 1);
    if (port_new(bus, &p) < 0) return fail(why, ERR_NOMEM, "out of memory");
    while (!rc) {
        int64_t now = clk_now_us();
        if (now >= until) {
            rc =
                fail(why, ERR_DEADLINE,
                     "no coordinator at %s gave this worker a rank; does it run, and is that its control endpoint (--connect)?",
                     bus_endpoint(bus));
            break;
        }
        if (now >= next) {
            port_send_seat(p, host, (uint64_t)getpid()); /* one that is lost is said again */
            next = now + AGAIN_US;
        }
        rc = listen_once(p, rank, size, why);
        struct pollfd fd = {.fd = bus_fd(bus), .events = POLLIN};
        if (!rc) poll(&fd, 1, (int)((next - now + 999) / 1000));
    }
    port_free(p);
    return rc < 0 ? rc : 0;
}
