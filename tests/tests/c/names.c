/* A header of names belongs to whoever includes it: what is defined already stays. */
#define S_OK 42
#define E_POINTER "mine"

#include "vmm.h"
#include "vmm.h"

#if S_OK != 42
#error "S_OK is not ours any more"
#endif

/* A constant of a code is one also for the compiler. */
const char *meaning(vmm_hresult code);
const char *meaning(vmm_hresult code)
{
    switch (code) {
    case VMM_S_OK:
        return "done";
    case VMM_E_POINTER:
        return E_POINTER;
    case VM_E_VM_NOT_RUNNING:
        return VMM_FAILED(VM_E_VM_NOT_RUNNING) ? "off" : "?";
    default:
        return "?";
    }
}
