//! The cases of openraft's own suite, each by its name, on the backend of the module that includes this.

use super::{BACKEND, Cases};
use crate::support::{Builder, run, run_with};

#[test]
fn last_membership_in_log_initial() {
    run(BACKEND, Cases::last_membership_in_log_initial);
}

#[test]
fn last_membership_in_log() {
    run(BACKEND, Cases::last_membership_in_log);
}

#[test]
fn last_membership_in_log_multi_step() {
    run(BACKEND, Cases::last_membership_in_log_multi_step);
}

#[test]
fn get_membership_initial() {
    run(BACKEND, Cases::get_membership_initial);
}

#[test]
fn get_membership_from_log_and_empty_sm() {
    run(BACKEND, Cases::get_membership_from_log_and_empty_sm);
}

#[test]
fn get_membership_from_empty_log_and_sm() {
    run(BACKEND, Cases::get_membership_from_empty_log_and_sm);
}

#[test]
fn get_membership_from_log_le_sm_last_applied() {
    run(BACKEND, Cases::get_membership_from_log_le_sm_last_applied);
}

#[test]
fn get_membership_from_log_gt_sm_last_applied_1() {
    run(BACKEND, Cases::get_membership_from_log_gt_sm_last_applied_1);
}

#[test]
fn get_membership_from_log_gt_sm_last_applied_2() {
    run(BACKEND, Cases::get_membership_from_log_gt_sm_last_applied_2);
}

#[test]
fn get_initial_state_without_init() {
    run(BACKEND, Cases::get_initial_state_without_init);
}

#[test]
fn get_initial_state_membership_from_log_and_sm() {
    run(BACKEND, Cases::get_initial_state_membership_from_log_and_sm);
}

#[test]
fn get_initial_state_with_state() {
    run(BACKEND, Cases::get_initial_state_with_state);
}

#[test]
fn get_initial_state_last_log_gt_sm() {
    run(BACKEND, Cases::get_initial_state_last_log_gt_sm);
}

#[test]
fn get_initial_state_last_log_lt_sm() {
    run(BACKEND, Cases::get_initial_state_last_log_lt_sm);
}

#[test]
fn get_initial_state_log_ids() {
    run(BACKEND, Cases::get_initial_state_log_ids);
}

#[test]
fn get_initial_state_re_apply_committed() {
    run(BACKEND, Cases::get_initial_state_re_apply_committed);
}

#[test]
fn save_vote() {
    run(BACKEND, Cases::save_vote);
}

#[test]
fn get_log_entries() {
    run(BACKEND, Cases::get_log_entries);
}

#[test]
fn limited_get_log_entries() {
    run(BACKEND, Cases::limited_get_log_entries);
}

#[test]
fn try_get_log_entry() {
    run(BACKEND, Cases::try_get_log_entry);
}

#[test]
fn initial_logs() {
    run(BACKEND, Cases::initial_logs);
}

#[test]
fn get_log_state() {
    run(BACKEND, Cases::get_log_state);
}

#[test]
fn get_log_id() {
    run(BACKEND, Cases::get_log_id);
}

#[test]
fn last_id_in_log() {
    run(BACKEND, Cases::last_id_in_log);
}

#[test]
fn last_applied_state() {
    run(BACKEND, Cases::last_applied_state);
}

#[test]
fn purge_logs_upto_0() {
    run(BACKEND, Cases::purge_logs_upto_0);
}

#[test]
fn purge_logs_upto_5() {
    run(BACKEND, Cases::purge_logs_upto_5);
}

#[test]
fn purge_logs_upto_20() {
    run(BACKEND, Cases::purge_logs_upto_20);
}

#[test]
fn delete_logs_since_11() {
    run(BACKEND, Cases::delete_logs_since_11);
}

#[test]
fn delete_logs_since_0() {
    run(BACKEND, Cases::delete_logs_since_0);
}

#[test]
fn append_to_log() {
    run(BACKEND, Cases::append_to_log);
}

#[test]
fn snapshot_meta() {
    run(BACKEND, Cases::snapshot_meta);
}

#[test]
fn apply_single() {
    run(BACKEND, Cases::apply_single);
}

#[test]
fn apply_multiple() {
    run(BACKEND, Cases::apply_multiple);
}

#[test]
fn transfer_snapshot() {
    run_with(Cases::transfer_snapshot(&Builder(BACKEND)));
}
