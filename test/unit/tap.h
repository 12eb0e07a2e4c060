/*-------------------------------------------------------------------------
 *
 * tap.h
 *	  The little of the Test Anything Protocol that the unit tests need.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_TAP_H
#define ECHOCACHE_TAP_H

#include <stdbool.h>

/* Print ok or not ok with a number and the name; returns passed. */
extern bool tap_ok(bool passed, const char *name, ...)
			__attribute__((format(printf, 2, 3)));

/* Print a comment, such as what was expected and what was found. */
extern void tap_diag(const char *message, ...)
			__attribute__((format(printf, 1, 2)));

/* One for each file under test. */
extern void test_key(void);
extern void test_leaseline(void);
extern void test_wire(void);

#endif							/* ECHOCACHE_TAP_H */
