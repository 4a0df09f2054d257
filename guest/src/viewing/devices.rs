//! Devices, each of which belongs to one account.

use crate::fault::{Reason, fault, refuse};
use crate::faults::Fault;
use crate::imports::Imports;
use crate::keys::{self, check_id};
use crate::transaction::{Transaction, entry, read, text};

const ACCOUNT_FIELD: &str = "account_id";

/// Assigns a device to an account. A device of another account moves to this one.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn register_device(
    imports: &impl Imports,
    device_id: &str,
    account_id: &str,
) -> Result<(), Fault> {
    let mut violations = Vec::new();
    check_id("device_id", device_id, &mut violations);
    check_id("account_id", account_id, &mut violations);
    refuse(violations)?;
    let mut transaction = Transaction::new();
    transaction.then.update(keys::device(device_id), vec![entry(ACCOUNT_FIELD, account_id)]);
    transaction.execute(imports).map(drop)
}

/// Removes a device from its account, whether or not it has one.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn forget_device(imports: &impl Imports, device_id: &str) -> Result<(), Fault> {
    let mut violations = Vec::new();
    check_id("device_id", device_id, &mut violations);
    refuse(violations)?;
    let mut transaction = Transaction::new();
    transaction.then.delete(keys::device(device_id));
    transaction.execute(imports).map(drop)
}

/// The account of a device.
///
/// # Errors
/// `INVALID_REQUEST`; `DEVICE_NOT_REGISTERED`; `STORE_UNAVAILABLE`.
pub fn get_device(imports: &impl Imports, device_id: &str) -> Result<String, Fault> {
    let mut violations = Vec::new();
    check_id("device_id", device_id, &mut violations);
    refuse(violations)?;
    account_of(imports, device_id)
}

/// The account of a device.
///
/// # Errors
/// `DEVICE_NOT_REGISTERED`; `STORE_UNAVAILABLE`.
pub fn account_of(imports: &impl Imports, device_id: &str) -> Result<String, Fault> {
    let (device, _) = read(imports, keys::device(device_id), &[ACCOUNT_FIELD])?;
    let account = device.and_then(|device| text(&device, ACCOUNT_FIELD));
    account.ok_or_else(|| fault(Reason::DeviceNotRegistered, "Device not registered"))
}
