//! `IVMTask` for C.

use super::call::{ForC, act, add_ref, ask, ask_if_any, call, handle, json, object, release};
use super::code::{VmmHresult, for_c};
use super::machine::VmmMachine;
use super::structure::{SizedOut, Structure};
use crate::control::client::Followed;
use crate::error::CallError;
use crate::virtual_pc::Task;
use protocol::HResult;
use protocol::task::{TaskInfo, TaskResult};
use std::ffi::{c_char, c_int};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

/// Work that takes time.
pub struct VmmTask {
    task: Task,
    /// The connection on which it is heard of, once somebody has wanted that.
    followed: Mutex<Option<Followed>>,
}

impl From<Task> for VmmTask {
    fn from(task: Task) -> Self {
        Self { task, followed: Mutex::default() }
    }
}

impl ForC for VmmTask {
    type C = *mut Self;
    const NONE: Self::C = null_mut();

    fn for_c(self) -> Self::C {
        handle(self)
    }
}

impl VmmTask {
    /// Does something with the connection on which the task is heard of.
    fn follow<T>(
        &self,
        work: impl FnOnce(&mut Followed) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *followed {
            Some(followed) => work(followed),
            none => work(none.insert(self.task.follow()?)),
        }
    }
}

/// How a task ended: VMTaskResult.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmmTaskResult {
    /// It has not ended.
    None = -1,
    /// The work is done.
    Success = 0,
    /// It was cancelled, and nothing was changed.
    Cancelled = 1,
    /// It failed; the task's error says why.
    UnexpectedError = 2,
    /// Memory ran out.
    OutOfMemoryError = 3,
    /// A disk could not be written.
    DiskRelatedError = 4,
    /// A saved state does not fit this machine.
    IncompatibleSavedStateError = 5,
    /// It was not done in time.
    TimeOutError = 6,
    /// A preference has a value that is not allowed.
    IllegalValueError = 7,
    /// A thread of the task crashed.
    ThreadCrashError = 8,
    /// The shutdown that was asked for was aborted.
    ShutdownAbort = 9,
}

impl From<Option<TaskResult>> for VmmTaskResult {
    fn from(result: Option<TaskResult>) -> Self {
        let Some(result) = result else { return Self::None };
        match result {
            TaskResult::Success => Self::Success,
            TaskResult::Cancelled => Self::Cancelled,
            TaskResult::UnexpectedError => Self::UnexpectedError,
            TaskResult::OutOfMemoryError => Self::OutOfMemoryError,
            TaskResult::DiskRelatedError => Self::DiskRelatedError,
            TaskResult::IncompatibleSavedStateError => Self::IncompatibleSavedStateError,
            TaskResult::TimeOutError => Self::TimeOutError,
            TaskResult::IllegalValueError => Self::IllegalValueError,
            TaskResult::ThreadCrashError => Self::ThreadCrashError,
            TaskResult::ShutdownAbort => Self::ShutdownAbort,
        }
    }
}

/// A task at one moment. The caller sets the size before it asks.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VmmTaskInfo {
    /// Of this structure, in bytes.
    pub size: u32,
    /// Identifies the task among those of all machines.
    pub id: u32,
    /// 0 to 100; never falls; 100 only with success.
    pub percent_completed: u32,
    /// Whether the work has ended, one way or another: 0 or 1.
    pub is_complete: i32,
    /// Whether it can still be cancelled: 0 or 1.
    pub is_cancelable: i32,
    /// How it ended.
    pub result: VmmTaskResult,
    /// Why it failed; S_OK while it runs and with success.
    pub error: VmmHresult,
}

// SAFETY: it is seven numbers of the same size. It is never read, so that any number in place of
// the enumeration does not matter.
unsafe impl Structure for VmmTaskInfo {}

impl From<&TaskInfo> for VmmTaskInfo {
    fn from(info: &TaskInfo) -> Self {
        Self {
            size: 0,
            id: info.id,
            percent_completed: info.percent_completed.into(),
            is_complete: info.is_complete.into(),
            is_cancelable: info.is_cancelable.into(),
            result: info.result.into(),
            error: for_c(info.error),
        }
    }
}

/// Puts the task at `place`, or answers `S_FALSE` if there is none.
///
/// # Safety
/// As [`object`] and [`SizedOut::new`].
unsafe fn inform(
    task: *mut VmmTask,
    place: *mut VmmTaskInfo,
    work: impl FnOnce(&VmmTask) -> Result<Option<TaskInfo>, CallError>,
) -> VmmHresult {
    call(|| {
        // SAFETY: our caller promises it.
        let out = unsafe { SizedOut::new(place)? };
        // SAFETY: our caller promises it.
        let Some(info) = work(unsafe { object(task)? })? else { return Ok(HResult::S_FALSE) };
        out.put(&VmmTaskInfo::from(&info));
        Ok(HResult::S_OK)
    })
}

/// The task as it is now.
///
/// VM_E_VM_NOT_RUNNING: the machine's process has ended, and the task with it, if it is not the one
/// that was to turn it off; E_INVALIDARG: the structure is not valid. Both hold for whatever follows,
/// too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_task_get_info(
    task: *mut VmmTask,
    info: *mut VmmTaskInfo,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { inform(task, info, |task| task.task.info().map(Some)) }
}

/// What the task does, for people.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_task_description(
    task: *mut VmmTask,
    description: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(task, description, |task| Ok(task.task.info()?.description)) }
}

/// The task's error in words; empty while it runs and with success.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_task_error_description(
    task: *mut VmmTask,
    description: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(task, description, |task| Ok(task.task.info()?.error_description)) }
}

/// What a logoff has done so far, as JSON: what `vmm logoff --format json` prints as its report. All
/// of it is the guest's claim.
///
/// S_FALSE, and null: the task has no report.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_task_report(
    task: *mut VmmTask,
    document: *mut *mut c_char,
) -> VmmHresult {
    let say = |task: &VmmTask| task.task.report()?.map(|report| json(&report)).transpose();
    // SAFETY: our caller promises the same.
    unsafe { ask_if_any(task, document, say) }
}

/// The machine whose work it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_task_machine(
    task: *mut VmmTask,
    machine: *mut *mut VmmMachine,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(task, machine, |task| Ok(VmmMachine(task.task.virtual_machine().clone()))) }
}

/// Waits for the task's end, at most so many milliseconds: 0 to 4,000,000, or -1 for ever; an
/// elapsed wait is no error. Gives the task as it then is.
///
/// E_INVALIDARG: any other time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_task_wait_for_completion(
    task: *mut VmmTask,
    milliseconds: i32,
    info: *mut VmmTaskInfo,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { inform(task, info, |task| task.task.wait_for_completion(milliseconds).map(Some)) }
}

/// A descriptor for poll(2) and its like: readable when there may be something for vmm_task_next. It
/// stays the task's: it is closed when the last reference to the object is released, and is not to
/// be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_task_fd(task: *mut VmmTask, fd: *mut c_int) -> VmmHresult {
    let open = |task: &VmmTask| task.follow(|followed| Ok(followed.as_fd().as_raw_fd()));
    // SAFETY: our caller promises the same.
    unsafe { ask(task, fd, open) }
}

/// The next change of the task, without waiting. The first is the task as it was when this or
/// vmm_task_fd was called first; the last is its completion.
///
/// S_FALSE: there is none now. Only then poll the descriptor. VM_E_VM_NOT_RUNNING: the machine's
/// process has ended; vmm_task_get_info knows the end of a task that has turned it off.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_task_next(task: *mut VmmTask, info: *mut VmmTaskInfo) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { inform(task, info, |task| task.follow(Followed::take)) }
}

/// Cancels the task.
///
/// E_FAIL: it can no longer be cancelled; ERROR_ACCESS_DENIED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_task_cancel(task: *mut VmmTask) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { act(task, |task| task.task.cancel()) }
}

/// Counts one reference to the object more. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_task_add_ref(task: *mut VmmTask) {
    // SAFETY: our caller promises the same.
    unsafe { add_ref(task) };
}

/// Counts one reference to the object less; with the last it is gone. Null is fine. The work goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_task_release(task: *mut VmmTask) {
    // SAFETY: our caller promises the same.
    unsafe { release(task) };
}
