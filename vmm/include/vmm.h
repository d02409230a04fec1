/*
 * The object model of vmm in C: machines, their guests, their tasks and their events.
 *
 *     vmm_pc_events <-- vmm_virtual_pc --> vmm_machine --> vmm_guest_os
 *                              |              |  |              |
 *                              |              |  +-> vmm_events |
 *                              +--------------+----> vmm_task <-+
 *
 * - Nearly every function answers with a code, which is negative if the call failed. What else it
 *   has to say it puts where an out pointer points to. If that is null the answer is E_POINTER, and
 *   nothing is done; if the call fails, null or 0 is put there, or -1 for a descriptor.
 *   vmm_last_error_text has the reasons of the calling thread's last failure, for people.
 * - An object that is given out has one reference. ..._add_ref counts one more and ..._release one
 *   less; with the last the object is gone. Objects keep what they need: they can be released in any
 *   order. A null object is ERROR_INVALID_HANDLE.
 * - Text is UTF-8. What is given out as char * is freed with vmm_string_free, and the caller's
 *   own is copied. Text that is null is E_POINTER where null is not allowed, and what is not UTF-8
 *   is E_INVALIDARG.
 * - A structure begins with its size, which the caller sets to sizeof before the call. What a caller
 *   of an older header does not know has its default; one of a newer header that asks for what the
 *   library does not know yet gets E_INVALIDARG.
 * - Truth is 1 or 0. Sizes are in bytes and times in milliseconds.
 * - Every function may be called from any thread at any time; only the release of an object's last
 *   reference must be the last use of it. Two threads that wait on one event queue take turns.
 * - The library never prints, installs signal handlers, forks or ends the process. A fault of its
 *   own does not get out of a call either: that is DISP_E_EXCEPTION.
 *
 * Each function has the codes that are particular to it; DISP_E_EXCEPTION, an unexpected error, is
 * possible with all of them.
 *
 * Link with -lvmm; with libvmm.a, also with -lm.
 *
 * Written by `cargo xtask c` from vmm/src/ffi: do not edit.
 */

#ifndef VMM_H
#define VMM_H

#include <stdint.h>

/*
 * The codes: values and meanings of the Windows Virtual PC API.
 *
 * Each has a name of ours, which begins with VMM_. Those with a name of their own there have that one
 * here as well, unless it is defined already, or VMM_NO_SHORT_NAMES is. (ERROR_... have not: on
 * Windows those are the numbers that these codes are made of.)
 */
/** done */
#define VMM_S_OK ((vmm_hresult)0x00000000)
/** nothing to answer with */
#define VMM_S_FALSE ((vmm_hresult)0x00000001)
/** an out pointer is null */
#define VMM_E_POINTER ((vmm_hresult)0x80004003)
/** not possible now */
#define VMM_E_FAIL ((vmm_hresult)0x80004005)
/** unexpected error */
#define VMM_DISP_E_EXCEPTION ((vmm_hresult)0x80020009)
/** no such item in the collection */
#define VMM_DISP_E_BADINDEX ((vmm_hresult)0x8002000B)
/** the file does not exist */
#define VMM_ERROR_FILE_NOT_FOUND ((vmm_hresult)0x80070002)
/** the path does not exist */
#define VMM_ERROR_PATH_NOT_FOUND ((vmm_hresult)0x80070003)
/** access denied */
#define VMM_ERROR_ACCESS_DENIED ((vmm_hresult)0x80070005)
/** not a valid handle */
#define VMM_ERROR_INVALID_HANDLE ((vmm_hresult)0x80070006)
/** out of memory */
#define VMM_ERROR_OUTOFMEMORY ((vmm_hresult)0x8007000E)
/** not ready */
#define VMM_ERROR_NOT_READY ((vmm_hresult)0x80070015)
/** in use by somebody else */
#define VMM_ERROR_SHARING_VIOLATION ((vmm_hresult)0x80070020)
/** an argument is not valid */
#define VMM_E_INVALIDARG ((vmm_hresult)0x80070057)
/** too long */
#define VMM_ERROR_BUFFER_OVERFLOW ((vmm_hresult)0x8007006F)
/** no space left */
#define VMM_ERROR_DISK_FULL ((vmm_hresult)0x80070070)
/** not a valid name */
#define VMM_ERROR_INVALID_NAME ((vmm_hresult)0x8007007B)
/** not a valid path */
#define VMM_ERROR_BAD_PATHNAME ((vmm_hresult)0x800700A1)
/** exists already */
#define VMM_ERROR_ALREADY_EXISTS ((vmm_hresult)0x800700B7)
/** the guest is shutting down */
#define VMM_ERROR_SHUTDOWN_IN_PROGRESS ((vmm_hresult)0x8007045B)
/** cancelled */
#define VMM_ERROR_CANCELLED ((vmm_hresult)0x800704C7)
/** the guest is locked */
#define VMM_ERROR_MACHINE_LOCKED ((vmm_hresult)0x800704F7)
/** nobody is logged on */
#define VMM_ERROR_NO_SUCH_LOGON_SESSION ((vmm_hresult)0x80070520)
/** not completed in time */
#define VMM_VM_E_TIMED_OUT ((vmm_hresult)0xA0040202)
/** the host is short of resources */
#define VMM_VM_E_OUT_OF_RESOURCE ((vmm_hresult)0xA0040203)
/** too many machines are active */
#define VMM_VM_E_TOO_MANY_VMS ((vmm_hresult)0xA0040204)
/** the machine is not running */
#define VMM_VM_E_VM_NOT_RUNNING ((vmm_hresult)0xA0040206)
/** no such machine */
#define VMM_VM_E_VM_UNKNOWN ((vmm_hresult)0xA0040207)
/** the monitor is shutting down */
#define VMM_VM_E_APP_SHUTTING_DOWN ((vmm_hresult)0xA0040209)
/** the machine is running or saved */
#define VMM_VM_E_VM_RUNNING_OR_SAVED ((vmm_hresult)0xA004020B)
/** no such configuration value */
#define VMM_VM_E_PREF_NOT_FOUND ((vmm_hresult)0xA0040300)
/** the configuration value is not allowed */
#define VMM_VM_E_PREF_ILLEGAL_VALUE ((vmm_hresult)0xA0040301)
/** not while the machine is active */
#define VMM_VM_E_PREF_VM_ACTIVE ((vmm_hresult)0xA0040302)
/** the name is empty */
#define VMM_VM_E_CONFIG_NO_NAME ((vmm_hresult)0xA0040400)
/** the name is longer than 80 characters */
#define VMM_VM_E_CONFIG_NAME_TOO_LONG ((vmm_hresult)0xA0040401)
/** the name has a character that is not allowed */
#define VMM_VM_E_CONFIG_NAME_INVALID_CHAR ((vmm_hresult)0xA0040402)
/** the name is taken */
#define VMM_VM_E_CONFIG_DUPLICATE_NAME ((vmm_hresult)0xA0040403)
/** the machine is running already */
#define VMM_VM_E_VM_RUNNING ((vmm_hresult)0xA0040500)
/** the machine has no saved state */
#define VMM_VM_E_VM_NO_SAVED_STATE ((vmm_hresult)0xA0040501)
/** no such drive */
#define VMM_VM_E_DRIVE_INVALID ((vmm_hresult)0xA0040502)
/** the integration components are not available */
#define VMM_VM_E_ADDITIONS_NOT_AVAIL ((vmm_hresult)0xA0040504)
/** the integration components cannot do this */
#define VMM_VM_E_ADDITIONS_FEATURE_NOT_AVAIL ((vmm_hresult)0xA0040505)
/** the machine is paused */
#define VMM_VM_E_VM_PAUSED ((vmm_hresult)0xA0040507)
/** the medium could not be unmounted */
#define VMM_VM_E_MEDIA_UNMOUNT_FAIL ((vmm_hresult)0xA0040508)
/** this processor cannot run virtual machines */
#define VMM_VM_E_UNSUPPORTED_HARDWARE ((vmm_hresult)0xA0040950)
/** hardware virtualization is missing or off */
#define VMM_VM_E_HARDWARE_VIRTUALIZATION_DISABLED ((vmm_hresult)0xA0040951)

#ifndef VMM_NO_SHORT_NAMES
#ifndef S_OK
#define S_OK VMM_S_OK
#endif
#ifndef S_FALSE
#define S_FALSE VMM_S_FALSE
#endif
#ifndef E_POINTER
#define E_POINTER VMM_E_POINTER
#endif
#ifndef E_FAIL
#define E_FAIL VMM_E_FAIL
#endif
#ifndef DISP_E_EXCEPTION
#define DISP_E_EXCEPTION VMM_DISP_E_EXCEPTION
#endif
#ifndef DISP_E_BADINDEX
#define DISP_E_BADINDEX VMM_DISP_E_BADINDEX
#endif
#ifndef E_INVALIDARG
#define E_INVALIDARG VMM_E_INVALIDARG
#endif
#ifndef VM_E_TIMED_OUT
#define VM_E_TIMED_OUT VMM_VM_E_TIMED_OUT
#endif
#ifndef VM_E_OUT_OF_RESOURCE
#define VM_E_OUT_OF_RESOURCE VMM_VM_E_OUT_OF_RESOURCE
#endif
#ifndef VM_E_TOO_MANY_VMS
#define VM_E_TOO_MANY_VMS VMM_VM_E_TOO_MANY_VMS
#endif
#ifndef VM_E_VM_NOT_RUNNING
#define VM_E_VM_NOT_RUNNING VMM_VM_E_VM_NOT_RUNNING
#endif
#ifndef VM_E_VM_UNKNOWN
#define VM_E_VM_UNKNOWN VMM_VM_E_VM_UNKNOWN
#endif
#ifndef VM_E_APP_SHUTTING_DOWN
#define VM_E_APP_SHUTTING_DOWN VMM_VM_E_APP_SHUTTING_DOWN
#endif
#ifndef VM_E_VM_RUNNING_OR_SAVED
#define VM_E_VM_RUNNING_OR_SAVED VMM_VM_E_VM_RUNNING_OR_SAVED
#endif
#ifndef VM_E_PREF_NOT_FOUND
#define VM_E_PREF_NOT_FOUND VMM_VM_E_PREF_NOT_FOUND
#endif
#ifndef VM_E_PREF_ILLEGAL_VALUE
#define VM_E_PREF_ILLEGAL_VALUE VMM_VM_E_PREF_ILLEGAL_VALUE
#endif
#ifndef VM_E_PREF_VM_ACTIVE
#define VM_E_PREF_VM_ACTIVE VMM_VM_E_PREF_VM_ACTIVE
#endif
#ifndef VM_E_CONFIG_NO_NAME
#define VM_E_CONFIG_NO_NAME VMM_VM_E_CONFIG_NO_NAME
#endif
#ifndef VM_E_CONFIG_NAME_TOO_LONG
#define VM_E_CONFIG_NAME_TOO_LONG VMM_VM_E_CONFIG_NAME_TOO_LONG
#endif
#ifndef VM_E_CONFIG_NAME_INVALID_CHAR
#define VM_E_CONFIG_NAME_INVALID_CHAR VMM_VM_E_CONFIG_NAME_INVALID_CHAR
#endif
#ifndef VM_E_CONFIG_DUPLICATE_NAME
#define VM_E_CONFIG_DUPLICATE_NAME VMM_VM_E_CONFIG_DUPLICATE_NAME
#endif
#ifndef VM_E_VM_RUNNING
#define VM_E_VM_RUNNING VMM_VM_E_VM_RUNNING
#endif
#ifndef VM_E_VM_NO_SAVED_STATE
#define VM_E_VM_NO_SAVED_STATE VMM_VM_E_VM_NO_SAVED_STATE
#endif
#ifndef VM_E_DRIVE_INVALID
#define VM_E_DRIVE_INVALID VMM_VM_E_DRIVE_INVALID
#endif
#ifndef VM_E_ADDITIONS_NOT_AVAIL
#define VM_E_ADDITIONS_NOT_AVAIL VMM_VM_E_ADDITIONS_NOT_AVAIL
#endif
#ifndef VM_E_ADDITIONS_FEATURE_NOT_AVAIL
#define VM_E_ADDITIONS_FEATURE_NOT_AVAIL VMM_VM_E_ADDITIONS_FEATURE_NOT_AVAIL
#endif
#ifndef VM_E_VM_PAUSED
#define VM_E_VM_PAUSED VMM_VM_E_VM_PAUSED
#endif
#ifndef VM_E_MEDIA_UNMOUNT_FAIL
#define VM_E_MEDIA_UNMOUNT_FAIL VMM_VM_E_MEDIA_UNMOUNT_FAIL
#endif
#ifndef VM_E_UNSUPPORTED_HARDWARE
#define VM_E_UNSUPPORTED_HARDWARE VMM_VM_E_UNSUPPORTED_HARDWARE
#endif
#ifndef VM_E_HARDWARE_VIRTUALIZATION_DISABLED
#define VM_E_HARDWARE_VIRTUALIZATION_DISABLED VMM_VM_E_HARDWARE_VIRTUALIZATION_DISABLED
#endif
#endif /* VMM_NO_SHORT_NAMES */

/** Whether a code stands for a failure. */
#define VMM_FAILED(code) ((code) < 0)

/** All defaults: struct vmm_logoff_options options = VMM_LOGOFF_OPTIONS_INIT; */
#define VMM_LOGOFF_OPTIONS_INIT \
    { sizeof(struct vmm_logoff_options), 10000, 0, 60000 }

/**
 * What a machine is doing: VMVMState.
 */
enum vmm_vm_state
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Not known.
   */
  VMM_VM_STATE_INVALID = 0,
  /**
   * Off.
   */
  VMM_VM_STATE_TURNED_OFF = 1,
  /**
   * Off, with its state in a file.
   */
  VMM_VM_STATE_SAVED = 2,
  /**
   * On the way from off to running.
   */
  VMM_VM_STATE_TURNING_ON = 3,
  /**
   * On the way from saved to running.
   */
  VMM_VM_STATE_RESTORING = 4,
  /**
   * Running, and not paused.
   */
  VMM_VM_STATE_RUNNING = 5,
  /**
   * Its processors stand still.
   */
  VMM_VM_STATE_PAUSED = 6,
  /**
   * On the way from running to saved.
   */
  VMM_VM_STATE_SAVING = 7,
  /**
   * On the way from running to off.
   */
  VMM_VM_STATE_TURNING_OFF = 8,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum vmm_vm_state vmm_vm_state;
#else
typedef uint32_t vmm_vm_state;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How a task ended: VMTaskResult.
 */
enum vmm_task_result
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It has not ended.
   */
  VMM_TASK_RESULT_NONE = -1,
  /**
   * The work is done.
   */
  VMM_TASK_RESULT_SUCCESS = 0,
  /**
   * It was cancelled, and nothing was changed.
   */
  VMM_TASK_RESULT_CANCELLED = 1,
  /**
   * It failed; the task's error says why.
   */
  VMM_TASK_RESULT_UNEXPECTED_ERROR = 2,
  /**
   * Memory ran out.
   */
  VMM_TASK_RESULT_OUT_OF_MEMORY_ERROR = 3,
  /**
   * A disk could not be written.
   */
  VMM_TASK_RESULT_DISK_RELATED_ERROR = 4,
  /**
   * A saved state does not fit this machine.
   */
  VMM_TASK_RESULT_INCOMPATIBLE_SAVED_STATE_ERROR = 5,
  /**
   * It was not done in time.
   */
  VMM_TASK_RESULT_TIME_OUT_ERROR = 6,
  /**
   * A preference has a value that is not allowed.
   */
  VMM_TASK_RESULT_ILLEGAL_VALUE_ERROR = 7,
  /**
   * A thread of the task crashed.
   */
  VMM_TASK_RESULT_THREAD_CRASH_ERROR = 8,
  /**
   * The shutdown that was asked for was aborted.
   */
  VMM_TASK_RESULT_SHUTDOWN_ABORT = 9,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum vmm_task_result vmm_task_result;
#else
typedef int32_t vmm_task_result;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The number of an event: that of the member of IVMVirtualMachineEvents.
 */
enum vmm_event_number
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Events were lost, because they were not taken in time.
   */
  VMM_EVENT_NUMBER_LOST = 0,
  /**
   * The machine's state changed.
   */
  VMM_EVENT_NUMBER_ON_STATE_CHANGE = 1,
  /**
   * The machine is about to be turned off.
   */
  VMM_EVENT_NUMBER_ON_REQUEST_SHUTDOWN = 2,
  /**
   * The machine boots anew.
   */
  VMM_EVENT_NUMBER_ON_RESET = 3,
  /**
   * A processor of the guest triple-faulted.
   */
  VMM_EVENT_NUMBER_ON_TRIPLE_FAULT = 4,
  /**
   * The agent fell silent without a word.
   */
  VMM_EVENT_NUMBER_ON_HEARTBEAT_STOPPED = 5,
  /**
   * An agent is connected and has answered.
   */
  VMM_EVENT_NUMBER_ON_ADDITIONS_AVAILABLE = 9,
  /**
   * The guest has shut down.
   */
  VMM_EVENT_NUMBER_ON_GUEST_SHUTDOWN = 10,
  /**
   * A session ended.
   */
  VMM_EVENT_NUMBER_ON_GUEST_LOGOFF = 11,
  /**
   * The guest's init says that the boot is complete; the API has no such event.
   */
  VMM_EVENT_NUMBER_GUEST_READY = 1000,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum vmm_event_number vmm_event_number;
#else
typedef uint32_t vmm_event_number;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Why somebody's session ended: VMLogoffType.
 */
enum vmm_logoff_type
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The user left.
   */
  VMM_LOGOFF_TYPE_NORMAL = 0,
  /**
   * The guest's system ended it.
   */
  VMM_LOGOFF_TYPE_FORCED = 1,
  /**
   * The host asked for it.
   */
  VMM_LOGOFF_TYPE_EXTERNAL = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum vmm_logoff_type vmm_logoff_type;
#else
typedef uint32_t vmm_logoff_type;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A queue of what happens to a machine.
 */
typedef struct vmm_events vmm_events;

/**
 * A guest's operating system.
 */
typedef struct vmm_guest_os vmm_guest_os;

/**
 * A machine.
 */
typedef struct vmm_machine vmm_machine;

/**
 * A queue of what becomes of all machines: of those that run, and of those that are started later.
 */
typedef struct vmm_pc_events vmm_pc_events;

/**
 * Work that takes time.
 */
typedef struct vmm_task vmm_task;

/**
 * All machines of a user.
 */
typedef struct vmm_virtual_pc vmm_virtual_pc;

/**
 * What a call answers: 0 is done, 1 is done with nothing to answer, and whatever is negative is a
 * refusal. The values are those of the Windows Virtual PC API, where this is HRESULT.
 */
typedef int32_t vmm_hresult;

/**
 * Whose machines, for vmm_virtual_pc_open. Those of the user who calls, if both folders are null.
 */
typedef struct vmm_virtual_pc_options {
  /**
   * Of this structure, in bytes.
   */
  uint32_t size;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * The folder of their definitions, as VMM_DATA_DIR names it to the vmm command.
   */
  const char *data_dir;
  /**
   * The folder of their sockets, as VMM_RUNTIME_DIR names it to the vmm command.
   */
  const char *runtime_dir;
} vmm_virtual_pc_options;

/**
 * What a machine is made of, for vmm_virtual_pc_create; what is 0 or null has its default.
 */
typedef struct vmm_machine_options {
  /**
   * Of this structure, in bytes.
   */
  uint32_t size;
  /**
   * Virtual processors.
   */
  uint32_t cpus;
  /**
   * RAM in bytes: at least 16 MiB, and a multiple of 4096.
   */
  uint64_t memory;
  /**
   * The kernel's file. There is no default.
   */
  const char *kernel;
  /**
   * The file of the initial RAM disk.
   */
  const char *initrd;
  /**
   * Words for the kernel command line.
   */
  const char *append;
  /**
   * The file that the serial console writes to.
   */
  const char *console;
} vmm_machine_options;

/**
 * How to log off. VMM_LOGOFF_OPTIONS_INIT is all defaults.
 */
typedef struct vmm_logoff_options {
  /**
   * Of this structure, in bytes.
   */
  uint32_t size;
  /**
   * Milliseconds between the polite signals and SIGKILL.
   */
  uint32_t grace_ms;
  /**
   * Milliseconds between the notice on the terminals and the commit; 0: no notice.
   */
  uint32_t notice_ms;
  /**
   * Milliseconds after the commit at which the task fails with a time-out.
   */
  uint32_t deadline_ms;
} vmm_logoff_options;

/**
 * The guest's version in numbers: GUESTOSVERSIONINFOEX. The caller sets the size before it asks.
 */
typedef struct vmm_os_version_info {
  /**
   * Of this structure, in bytes.
   */
  uint32_t size;
  /**
   * The first number of the system's version; 0 if it has none.
   */
  uint32_t major_version;
  /**
   * The second number of the system's version; 0 if it has none.
   */
  uint32_t minor_version;
  /**
   * The number of the image that the system was made from; 0 if it has none.
   */
  uint32_t build_number;
  /**
   * 2 is Windows NT, and no other number has a meaning: 0.
   */
  uint32_t platform_id;
  /**
   * The service pack's version: 0.
   */
  uint32_t service_pack_major;
  /**
   * The service pack's version: 0.
   */
  uint32_t service_pack_minor;
  /**
   * The suites of Windows: 0.
   */
  uint32_t suite_mask;
  /**
   * 1 for a workstation, 3 for a server, 0 if the system does not say.
   */
  uint32_t product_type;
} vmm_os_version_info;

/**
 * A task at one moment. The caller sets the size before it asks.
 */
typedef struct vmm_task_info {
  /**
   * Of this structure, in bytes.
   */
  uint32_t size;
  /**
   * Identifies the task among those of all machines.
   */
  uint32_t id;
  /**
   * 0 to 100; never falls; 100 only with success.
   */
  uint32_t percent_completed;
  /**
   * Whether the work has ended, one way or another: 0 or 1.
   */
  int32_t is_complete;
  /**
   * Whether it can still be cancelled: 0 or 1.
   */
  int32_t is_cancelable;
  /**
   * How it ended.
   */
  vmm_task_result result;
  /**
   * Why it failed; S_OK while it runs and with success.
   */
  vmm_hresult error;
} vmm_task_info;

/**
 * An event. The caller sets the size before it asks.
 */
typedef struct vmm_event {
  /**
   * Of this structure, in bytes.
   */
  uint32_t size;
  /**
   * What happened.
   */
  vmm_event_number number;
  /**
   * Counts the machine's events from 1, so that gaps show.
   */
  uint64_t sequence;
  /**
   * How many events were lost, for that number.
   */
  uint64_t lost;
  /**
   * What the machine is doing now, for a change of state.
   */
  vmm_vm_state state;
  /**
   * Why the session ended, for that of a session.
   */
  vmm_logoff_type logoff_type;
} vmm_event;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What went wrong in the last call of this thread that failed: what was tried, what was found, what
 * to do next. Empty if none has failed. Never null; good until the next call of this thread fails.
 */
const char *vmm_last_error_text(void);

/**
 * The documented name of a code, such as "VM_E_VM_NOT_RUNNING"; "?" if it is not one of those in
 * this header. Never null; good for ever.
 */
const char *vmm_hresult_symbol(vmm_hresult code);

/**
 * The meaning of a code in a few words; "?" if it is not one of those in this header. Never null;
 * good for ever.
 */
const char *vmm_hresult_text(vmm_hresult code);

/**
 * Frees a text that was given out as char *. Null is fine.
 */
void vmm_string_free(char *text);

/**
 * The machines that options (null: all defaults) say. Release it when it is of no more use.
 *
 * E_INVALIDARG: only one of the two folders is given, or the structure is not valid.
 */
vmm_hresult vmm_virtual_pc_open(const struct vmm_virtual_pc_options *options, struct vmm_virtual_pc **pc);

/**
 * The product's name.
 */
vmm_hresult vmm_virtual_pc_name(struct vmm_virtual_pc *pc, char **name);

/**
 * The product's version.
 */
vmm_hresult vmm_virtual_pc_version(struct vmm_virtual_pc *pc, char **version);

/**
 * The machine with this name, in whatever letters.
 *
 * S_FALSE, and null: there is none. VM_E_CONFIG_...: no machine can have this name.
 */
vmm_hresult vmm_virtual_pc_find(struct vmm_virtual_pc *pc,
                               const char *name,
                               struct vmm_machine **machine);

/**
 * Makes a machine and gives it this name. Its definition can be changed afterwards with
 * vmm_machine_set_definition.
 *
 * VM_E_CONFIG_NO_NAME, VM_E_CONFIG_NAME_TOO_LONG, VM_E_CONFIG_NAME_INVALID_CHAR,
 * VM_E_CONFIG_DUPLICATE_NAME; ERROR_PATH_NOT_FOUND: a file that it names is not there;
 * E_INVALIDARG: the structure is not valid; VM_E_PREF_ILLEGAL_VALUE: a value of it is not.
 */
vmm_hresult vmm_virtual_pc_create(struct vmm_virtual_pc *pc,
                                 const char *name,
                                 const struct vmm_machine_options *options,
                                 struct vmm_machine **machine);

/**
 * Adds the definition at a path, a file of TOML, to the catalog, under a name or, if that is null,
 * the name that it has.
 *
 * As vmm_virtual_pc_create; ERROR_FILE_NOT_FOUND: there is no such file.
 */
vmm_hresult vmm_virtual_pc_register(struct vmm_virtual_pc *pc,
                                   const char *name,
                                   const char *path,
                                   struct vmm_machine **machine);

/**
 * Takes a machine out of the catalog, and says where its definition is kept.
 *
 * VM_E_VM_RUNNING; VM_E_VM_UNKNOWN.
 */
vmm_hresult vmm_virtual_pc_unregister(struct vmm_virtual_pc *pc,
                                     struct vmm_machine *machine,
                                     char **path);

/**
 * Deletes a machine and its definition. The object stays until it is released.
 *
 * S_FALSE: there is none any more. VM_E_VM_RUNNING.
 */
vmm_hresult vmm_virtual_pc_delete(struct vmm_virtual_pc *pc, struct vmm_machine *machine);

/**
 * How many machines there are: those in the catalog, and others that run.
 */
vmm_hresult vmm_virtual_pc_machine_count(struct vmm_virtual_pc *pc, uint32_t *count);

/**
 * A machine by its place, from 0, in the order of the names.
 *
 * DISP_E_BADINDEX: there are not so many.
 */
vmm_hresult vmm_virtual_pc_machine_at(struct vmm_virtual_pc *pc,
                                     uint32_t index,
                                     struct vmm_machine **machine);

/**
 * How many tasks there are, of all machines.
 */
vmm_hresult vmm_virtual_pc_task_count(struct vmm_virtual_pc *pc, uint32_t *count);

/**
 * A task by its place, from 0, the oldest first.
 *
 * DISP_E_BADINDEX: there are not so many.
 */
vmm_hresult vmm_virtual_pc_task_at(struct vmm_virtual_pc *pc, uint32_t index, struct vmm_task **task);

/**
 * The task with this id.
 *
 * DISP_E_BADINDEX: there is none.
 */
vmm_hresult vmm_virtual_pc_task(struct vmm_virtual_pc *pc, uint32_t id, struct vmm_task **task);

/**
 * A queue of what becomes of all machines from now on.
 */
vmm_hresult vmm_virtual_pc_events(struct vmm_virtual_pc *pc, struct vmm_pc_events **events);

/**
 * Counts one reference to the object more. Null is fine.
 */
void vmm_virtual_pc_add_ref(struct vmm_virtual_pc *pc);

/**
 * Counts one reference to the object less; with the last it is gone. Null is fine.
 */
void vmm_virtual_pc_release(struct vmm_virtual_pc *pc);

/**
 * Its name.
 */
vmm_hresult vmm_machine_name(struct vmm_machine *machine, char **name);

/**
 * What it is doing.
 *
 * VM_E_VM_UNKNOWN: it is neither registered nor running.
 */
vmm_hresult vmm_machine_state(struct vmm_machine *machine, vmm_vm_state *state);

/**
 * What it is doing in detail, as JSON: what `vmm ls --format json` prints of it.
 *
 * VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN.
 */
vmm_hresult vmm_machine_info(struct vmm_machine *machine, char **document);

/**
 * The path of its definition.
 *
 * VM_E_VM_UNKNOWN: it is not in the catalog.
 */
vmm_hresult vmm_machine_file(struct vmm_machine *machine, char **path);

/**
 * What it is made of, as TOML.
 *
 * VM_E_VM_UNKNOWN: it is not in the catalog; VM_E_PREF_...: its definition has a fault.
 */
vmm_hresult vmm_machine_definition(struct vmm_machine *machine, char **definition);

/**
 * Changes what it is made of to this TOML.
 *
 * VM_E_PREF_VM_ACTIVE: it is on; VM_E_VM_UNKNOWN: it is not in the catalog; VM_E_PREF_...: the
 * definition has a fault.
 */
vmm_hresult vmm_machine_set_definition(struct vmm_machine *machine, const char *definition);

/**
 * Turns it on. If no process runs it, it runs in this one from now on, until it ends or the last
 * object that belongs to it (machine, guest, task) is released.
 *
 * VM_E_VM_RUNNING; VM_E_VM_UNKNOWN; ERROR_ACCESS_DENIED; VM_E_PREF_...: its definition has a fault.
 * What is wrong with host or files comes through the task.
 */
vmm_hresult vmm_machine_startup(struct vmm_machine *machine, struct vmm_task **task);

/**
 * Turns it off, as if its plug was pulled.
 *
 * VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN; ERROR_ACCESS_DENIED.
 */
vmm_hresult vmm_machine_turn_off(struct vmm_machine *machine, struct vmm_task **task);

/**
 * Boots it anew. Codes as vmm_machine_turn_off.
 */
vmm_hresult vmm_machine_reset(struct vmm_machine *machine, struct vmm_task **task);

/**
 * Lets its processors stand still. Codes as vmm_machine_turn_off, and E_FAIL if they do already.
 */
vmm_hresult vmm_machine_pause(struct vmm_machine *machine);

/**
 * Lets its processors go on. Codes as vmm_machine_turn_off, and E_FAIL if they do already.
 */
vmm_hresult vmm_machine_resume(struct vmm_machine *machine);

/**
 * Its guest's operating system; having it says nothing about whether there is one.
 */
vmm_hresult vmm_machine_guest_os(struct vmm_machine *machine, struct vmm_guest_os **guest);

/**
 * A queue of what happens to it from now on.
 *
 * VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN.
 */
vmm_hresult vmm_machine_events(struct vmm_machine *machine, struct vmm_events **events);

/**
 * How many tasks it has.
 *
 * VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN.
 */
vmm_hresult vmm_machine_task_count(struct vmm_machine *machine, uint32_t *count);

/**
 * A task of it by its place, from 0, the oldest first.
 *
 * DISP_E_BADINDEX: there are not so many; VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN.
 */
vmm_hresult vmm_machine_task_at(struct vmm_machine *machine, uint32_t index, struct vmm_task **task);

/**
 * Counts one reference to the object more. Null is fine.
 */
void vmm_machine_add_ref(struct vmm_machine *machine);

/**
 * Counts one reference to the object less; with the last it is gone. Null is fine.
 *
 * If this process runs the machine and no other object belongs to it, it is turned off.
 */
void vmm_machine_release(struct vmm_machine *machine);

/**
 * Logs every user off. Null options are all defaults.
 *
 * VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN; VM_E_ADDITIONS_FEATURE_NOT_AVAIL: no agent that can do it;
 * VM_E_TIMED_OUT: the guest does not accept; ERROR_ACCESS_DENIED; E_INVALIDARG: the structure is not
 * valid; DISP_E_EXCEPTION. If nobody is logged on, the task says so: ERROR_NO_SUCH_LOGON_SESSION.
 */
vmm_hresult vmm_guest_os_logoff(struct vmm_guest_os *guest,
                               const struct vmm_logoff_options *options,
                               struct vmm_task **task);

/**
 * Shuts the guest down; forced, if that is not 0, whatever is in the way. Codes as
 * vmm_guest_os_logoff.
 */
vmm_hresult vmm_guest_os_shutdown(struct vmm_guest_os *guest, int32_t forced, struct vmm_task **task);

/**
 * Restarts the guest; forced, if that is not 0, whatever is in the way. Codes as
 * vmm_guest_os_logoff.
 */
vmm_hresult vmm_guest_os_restart(struct vmm_guest_os *guest, int32_t forced, struct vmm_task **task);

/**
 * Has the guest's agent install the one that the machine brings along. The task succeeds when the
 * agent that was installed has connected.
 *
 * VM_E_DRIVE_INVALID: the machine has no integration disk; ERROR_FILE_NOT_FOUND: there is no agent
 * for it on the host; VM_E_ADDITIONS_FEATURE_NOT_AVAIL: the guest has no agent that could do it, and
 * the text says what can be done by hand; ERROR_NOT_READY: a logoff or another installation is
 * under way; else as vmm_guest_os_logoff.
 */
vmm_hresult vmm_guest_os_install_integration_components(struct vmm_guest_os *guest,
                                                       struct vmm_task **task);

/**
 * Who is logged on, as JSON: what `vmm users --format json` prints. All of it is the guest's claim.
 *
 * Codes as vmm_guest_os_logoff, and VM_E_VM_PAUSED.
 */
vmm_hresult vmm_guest_os_sessions(struct vmm_guest_os *guest, char **document);

/**
 * Whether a session of this kind exists: 0 for a seamless one, 1 for a desktop.
 *
 * E_INVALIDARG: any other kind; VM_E_VM_PAUSED; VM_E_VM_NOT_RUNNING; VM_E_TIMED_OUT;
 * VM_E_ADDITIONS_FEATURE_NOT_AVAIL.
 */
vmm_hresult vmm_guest_os_is_user_logged_on(struct vmm_guest_os *guest,
                                          int32_t kind,
                                          int32_t *logged_on);

/**
 * A parameter in the guest's store.
 *
 * E_INVALIDARG: the name is not allowed or not there; VM_E_VM_PAUSED; VM_E_VM_NOT_RUNNING;
 * VM_E_TIMED_OUT; VM_E_ADDITIONS_FEATURE_NOT_AVAIL.
 */
vmm_hresult vmm_guest_os_get_parameter(struct vmm_guest_os *guest, const char *name, char **value);

/**
 * Sets a parameter in the guest's store.
 *
 * E_INVALIDARG: the name or the value is not allowed; else as vmm_guest_os_get_parameter, and
 * ERROR_ACCESS_DENIED.
 */
vmm_hresult vmm_guest_os_set_parameter(struct vmm_guest_os *guest,
                                      const char *name,
                                      const char *value);

/**
 * Counts one reference to the object more. Null is fine.
 */
void vmm_guest_os_add_ref(struct vmm_guest_os *guest);

/**
 * Counts one reference to the object less; with the last it is gone. Null is fine.
 */
void vmm_guest_os_release(struct vmm_guest_os *guest);

/**
 * The guest's version in numbers.
 *
 * VM_E_ADDITIONS_FEATURE_NOT_AVAIL: no agent that can say it; VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN;
 * VM_E_VM_PAUSED; VM_E_TIMED_OUT. These hold for whatever follows, if nothing else is said there.
 */
vmm_hresult vmm_guest_os_os_version_info(struct vmm_guest_os *guest, struct vmm_os_version_info *info);

/**
 * Whether the guest can shut down in good order: 0 or 1.
 *
 * S_FALSE, and 0: the machine is not on.
 */
vmm_hresult vmm_guest_os_can_shutdown(struct vmm_guest_os *guest, int32_t *yes);

/**
 * The guest's host name.
 */
vmm_hresult vmm_guest_os_computer_name(struct vmm_guest_os *guest, char **name);

/**
 * The service pack: empty.
 */
vmm_hresult vmm_guest_os_csd_version(struct vmm_guest_os *guest, char **version);

/**
 * Heartbeats of the last minute, in percent of those expected.
 *
 * VM_E_ADDITIONS_NOT_AVAIL: there is no agent; VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN.
 */
vmm_hresult vmm_guest_os_heartbeat_percentage(struct vmm_guest_os *guest, uint32_t *percentage);

/**
 * The version of the agent.
 *
 * Codes as vmm_guest_os_heartbeat_percentage.
 */
vmm_hresult vmm_guest_os_integration_components_version(struct vmm_guest_os *guest, char **version);

/**
 * Whether the guest's user space runs: 0 or 1.
 *
 * Codes as vmm_guest_os_heartbeat_percentage.
 */
vmm_hresult vmm_guest_os_is_heartbeating(struct vmm_guest_os *guest, int32_t *yes);

/**
 * Whether the guest's clock follows the host's: 0 or 1.
 */
vmm_hresult vmm_guest_os_is_host_time_sync_enabled(struct vmm_guest_os *guest, int32_t *yes);

/**
 * Whether several users can be logged on at once: 0 or 1.
 */
vmm_hresult vmm_guest_os_multiple_user_sessions_allowed(struct vmm_guest_os *guest, int32_t *yes);

/**
 * The build of the guest's system; empty if it does not say.
 */
vmm_hresult vmm_guest_os_os_build_number(struct vmm_guest_os *guest, char **number);

/**
 * All that the guest's system says of itself, as JSON.
 */
vmm_hresult vmm_guest_os_os_info(struct vmm_guest_os *guest, char **document);

/**
 * The first number of the system's version; empty if it has none.
 */
vmm_hresult vmm_guest_os_os_major_version(struct vmm_guest_os *guest, char **version);

/**
 * The second number of the system's version; empty if it has none.
 */
vmm_hresult vmm_guest_os_os_minor_version(struct vmm_guest_os *guest, char **version);

/**
 * The system's name.
 */
vmm_hresult vmm_guest_os_os_name(struct vmm_guest_os *guest, char **name);

/**
 * Windows' platform: VM_E_ADDITIONS_FEATURE_NOT_AVAIL.
 */
vmm_hresult vmm_guest_os_os_platform_id(struct vmm_guest_os *guest, char **id);

/**
 * The system's version.
 */
vmm_hresult vmm_guest_os_os_version(struct vmm_guest_os *guest, char **version);

/**
 * What the system was made for: "0x0000001" is a workstation, "0x0000003" a server.
 */
vmm_hresult vmm_guest_os_product_type(struct vmm_guest_os *guest, char **kind);

/**
 * Whether the guest's screen is locked: 0 or 1.
 */
vmm_hresult vmm_guest_os_screen_locked(struct vmm_guest_os *guest, int32_t *yes);

/**
 * The service pack's version.
 */
vmm_hresult vmm_guest_os_service_pack_major(struct vmm_guest_os *guest, char **version);

/**
 * The service pack's version.
 */
vmm_hresult vmm_guest_os_service_pack_minor(struct vmm_guest_os *guest, char **version);

/**
 * Windows' suites.
 */
vmm_hresult vmm_guest_os_suite_mask(struct vmm_guest_os *guest, char **mask);

/**
 * The port of Windows' remote desktop.
 */
vmm_hresult vmm_guest_os_terminal_server_port(struct vmm_guest_os *guest, uint32_t *port);

/**
 * Whether Windows' remote desktop is there: 0 or 1.
 */
vmm_hresult vmm_guest_os_terminal_services_initialized(struct vmm_guest_os *guest, int32_t *yes);

/**
 * The task as it is now.
 *
 * VM_E_VM_NOT_RUNNING: the machine's process has ended, and the task with it, if it is not the one
 * that was to turn it off; E_INVALIDARG: the structure is not valid. Both hold for whatever follows,
 * too.
 */
vmm_hresult vmm_task_get_info(struct vmm_task *task,
                             struct vmm_task_info *info);

/**
 * What the task does, for people.
 */
vmm_hresult vmm_task_description(struct vmm_task *task, char **description);

/**
 * The task's error in words; empty while it runs and with success.
 */
vmm_hresult vmm_task_error_description(struct vmm_task *task, char **description);

/**
 * What a logoff has done so far, as JSON: what `vmm logoff --format json` prints as its report. All
 * of it is the guest's claim.
 *
 * S_FALSE, and null: the task has no report.
 */
vmm_hresult vmm_task_report(struct vmm_task *task, char **document);

/**
 * The machine whose work it is.
 */
vmm_hresult vmm_task_machine(struct vmm_task *task, struct vmm_machine **machine);

/**
 * Waits for the task's end, at most so many milliseconds: 0 to 4,000,000, or -1 for ever; an
 * elapsed wait is no error. Gives the task as it then is.
 *
 * E_INVALIDARG: any other time.
 */
vmm_hresult vmm_task_wait_for_completion(struct vmm_task *task,
                                        int32_t milliseconds,
                                        struct vmm_task_info *info);

/**
 * A descriptor for poll(2) and its like: readable when there may be something for vmm_task_next. It
 * stays the task's: it is closed when the last reference to the object is released, and is not to
 * be read.
 */
vmm_hresult vmm_task_fd(struct vmm_task *task, int *fd);

/**
 * The next change of the task, without waiting. The first is the task as it was when this or
 * vmm_task_fd was called first; the last is its completion.
 *
 * S_FALSE: there is none now. Only then poll the descriptor. VM_E_VM_NOT_RUNNING: the machine's
 * process has ended; vmm_task_get_info knows the end of a task that has turned it off.
 */
vmm_hresult vmm_task_next(struct vmm_task *task, struct vmm_task_info *info);

/**
 * Cancels the task.
 *
 * E_FAIL: it can no longer be cancelled; ERROR_ACCESS_DENIED.
 */
vmm_hresult vmm_task_cancel(struct vmm_task *task);

/**
 * Counts one reference to the object more. Null is fine.
 */
void vmm_task_add_ref(struct vmm_task *task);

/**
 * Counts one reference to the object less; with the last it is gone. Null is fine. The work goes on.
 */
void vmm_task_release(struct vmm_task *task);

/**
 * A descriptor for poll(2) and its like: readable when there may be something for vmm_events_next.
 * It stays the queue's: it is closed when the last reference to the object is released, and is not
 * to be read.
 */
vmm_hresult vmm_events_fd(struct vmm_events *events, int *fd);

/**
 * The next event, and all that is known of it as JSON. Waits for it at most so many milliseconds: 0
 * to 4,000,000, or -1 for ever.
 *
 * S_FALSE: there is none now. Only then poll the descriptor. E_INVALIDARG: any other time, or the
 * structure is not valid. VM_E_VM_NOT_RUNNING: the machine's process has ended.
 */
vmm_hresult vmm_events_next(struct vmm_events *events,
                           int32_t milliseconds,
                           struct vmm_event *event,
                           char **document);

/**
 * Counts one reference to the object more. Null is fine.
 */
void vmm_events_add_ref(struct vmm_events *events);

/**
 * Counts one reference to the object less; with the last it is gone. Null is fine.
 */
void vmm_events_release(struct vmm_events *events);

/**
 * A descriptor for poll(2) and its like: readable when there may be something for
 * vmm_pc_events_next, and at least four times a second, for then new machines are looked for. It
 * stays the queue's: it is closed when the last reference to the object is released, and is not to
 * be read.
 *
 * VM_E_OUT_OF_RESOURCE: the host is short of descriptors.
 */
vmm_hresult vmm_pc_events_fd(struct vmm_pc_events *events, int *fd);

/**
 * The next change of a machine's state: what it is doing now, and its name. Waits for it at most so
 * many milliseconds: 0 to 4,000,000, or -1 for ever. A state that lasts but a moment may not be
 * told.
 *
 * S_FALSE: there is none now. Only then poll the descriptor. E_INVALIDARG: any other time.
 */
vmm_hresult vmm_pc_events_next(struct vmm_pc_events *events,
                              int32_t milliseconds,
                              vmm_vm_state *state,
                              char **machine);

/**
 * Counts one reference to the object more. Null is fine.
 */
void vmm_pc_events_add_ref(struct vmm_pc_events *events);

/**
 * Counts one reference to the object less; with the last it is gone. Null is fine.
 */
void vmm_pc_events_release(struct vmm_pc_events *events);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VMM_H */
