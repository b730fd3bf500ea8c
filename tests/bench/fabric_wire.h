/* fabric_wire.h - fabric_mem behind wires of a given latency and rate, in real time and without anybody's help: a frame arrives
 * when its bytes have passed over the wire between its two ranks, however busy either end is meanwhile.
 *
 * For benches that compare ways to hide what links take. Ranks are threads. Owner of a handle: its thread. */
#pragma once
#include "fabric/fabric.h"

struct wire_net;
/* bytes_per_us 0: no wire at all. */
int  wire_net_new(int ranks, double latency_us, double bytes_per_us, struct wire_net **out, struct why *why);
void wire_net_free(struct wire_net *n); /* after every rank closed */
int  wire_open(struct wire_net *n, int rank, struct fabric **out, struct why *why);
