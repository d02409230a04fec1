/* Names that are no macros cannot be seen by a header: it can be told to leave them alone. */
#define VMM_NO_SHORT_NAMES
#include "vmm.h"

enum mine { S_OK, S_FALSE, E_FAIL, VM_E_TIMED_OUT };

int is_mine(enum mine code);
int is_mine(enum mine code)
{
    return code == VM_E_TIMED_OUT && VMM_VM_E_TIMED_OUT != (vmm_hresult)VM_E_TIMED_OUT;
}
