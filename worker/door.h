/* door.h - the address at which other workers reach this one: that by which it reaches the coordinator itself. Any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* What to bind to for whoever connects to `coordinator` ("tcp://host:port"), with any free port. beyond: hosts other than this
 * one may come. ERR_NOT_FOUND when there is no way to that host. */
int door_address(const char *coordinator, bool beyond, char *buf, size_t cap, struct why *why);
