/* What the programs here share: rows of a table, each a call and the code that it must have. */
#ifndef CHECK_H
#define CHECK_H

#include "vmm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int wrong;
static struct vmm_virtual_pc *pc;

/* Says whether something holds. */
static void holds(int line, const char *what, int yes)
{
    if (!yes) {
        printf("line %d: %s: not so\n", line, what);
        wrong++;
    }
}

/* Compares a code with the constant, the documented value and the documented symbol. */
static void compare(int line, const char *call, vmm_hresult code, vmm_hresult constant,
                    uint32_t value, const char *symbol)
{
    const char *said = vmm_hresult_symbol(code);

    if (code != constant || (uint32_t)code != value || strcmp(said, symbol) != 0) {
        printf("line %d: %s: 0x%08" PRIX32 " %s (%s), not 0x%08" PRIX32 " %s\n", line, call,
               (uint32_t)code, said, VMM_FAILED(code) ? vmm_last_error_text() : "", value, symbol);
        wrong++;
    }
}

#define HOLDS(what) holds(__LINE__, #what, (what))
#define ROW(call, symbol, value) compare(__LINE__, #call, (call), symbol, (value), #symbol)
/* ERROR_... are the numbers that the codes are made of, so that those here have longer names. */
#define ROW_WIN32(call, symbol, value) \
    compare(__LINE__, #call, (call), VMM_##symbol, (value), #symbol)

/* The machine NAME: one reference. */
static inline struct vmm_machine *get(const char *name)
{
    struct vmm_machine *found = NULL;

    ROW(vmm_virtual_pc_find(pc, name, &found), S_OK, 0);
    return found;
}

static inline struct vmm_guest_os *guest_of(struct vmm_machine *machine)
{
    struct vmm_guest_os *guest = NULL;

    ROW(vmm_machine_guest_os(machine, &guest), S_OK, 0);
    return guest;
}

#endif
