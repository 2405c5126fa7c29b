"""The runbook has a row for each failure that a test provokes, and names no test that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RUNBOOK = (ROOT / "docs" / "troubleshooting.md").read_text()
DEFINED = {
    name: path.relative_to(ROOT / "tests").as_posix()
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"def (test_\w+)", path.read_text())
}
# Where every test is of a failure unless it is listed below; elsewhere a name that speaks of one is.
OF_FAILURES = re.compile(r"faults/|distributed/test_training_resume|flows/test_stack\.py|flows/test_stack_gateway")
TELLS = re.compile(r"kill|crash|damag|truncat|vanish|hung|_away|_lost_|shard_changed_since")
NO_FAILURE = {
    "whatever the sources look like, it works": """
        test_json_with_bare_nan test_all_needs_no_json test_book_meta_of_any_kind test_speaker_as_a_number
        test_offsets_of_every_kind test_two_files_of_one_name_in_different_books test_one_stem_in_two_formats
        test_a_directory_named_flac test_names_of_every_kind test_a_duplicate_added_later_is_known
        test_a_rerun_decodes_nothing test_one_segment_of_69_minutes test_from_s3_to_s3_gives_the_same_shards
        test_a_tar_on_s3_is_streamed test_one_and_three_workers_write_the_same_bytes_to_s3
        test_names_with_the_same_signs_are_no_keys test_a_damaged_file_is_nobodys_original
        test_keys_of_every_kind_are_found_under_the_name_that_the_listing_gave
        test_a_listing_of_many_pages_is_read_to_its_end test_writes_need_no_conditions_of_the_server
        test_a_refused_retry_of_ones_own_put_is_a_success""",
    "a large bucket, and tables read whole": """
        test_a_bucket_of_a_hundred_thousand_keys_is_listed_without_a_body
        test_no_row_of_a_table_is_lost_whatever_its_fields_hold""",
    "properties of the code": """
        test_no_source_unpickles_evaluates_or_uses_a_shell test_no_server_of_ours_listens_beyond_loopback""",
    "what a whole training leaves and how it resumes": """
        test_resuming_gives_the_same_weights_and_metrics test_a_codec_run_leaves_samples_to_hear_and_curves_to_see
        test_resuming_from_s3_in_bf16_and_a_step_after_the_checkpoint test_the_best_checkpoint_outlives_newer_ones
        test_retention_keeps_the_newest_and_the_best_and_sweeps_orphans
        test_a_run_says_whether_it_is_validated_on_speakers_it_trains_on test_speakers_of_both_splits_are_counted""",
    "the stack in good order": """
        test_up_again_says_that_it_is_up test_keys_are_closed_and_asked_for
        test_dashboards_and_storage_listen_on_loopback_alone
        test_no_key_is_on_a_command_line_in_a_log_or_in_what_prefect_stores
        test_down_ends_what_up_started_and_nothing_else
        test_three_ports_are_forwarded_byte_by_byte_and_ask_for_their_keys
        test_no_other_port_of_the_stack_is_there test_without_a_host_nothing_forwards_and_loopback_takes_one_back
        test_another_machine_gets_the_addresses_there_and_no_path_of_this_one
        test_prefects_pages_need_no_password_on_loopback_where_it_was_taken_out
        test_an_address_beyond_loopback_is_bound_where_every_service_asks_for_its_key
        test_marked_processes_are_found_after_their_parent_was_killed_and_end_even_if_stubborn""",
    "how a comparison or a plan tells of it": """
        test_a_value_that_one_speaker_lost_is_a_regression test_values_are_lost_only_where_both_measured
        test_values_that_were_lost_are_a_regression_whatever_the_tolerance
        test_the_hours_of_the_stages_are_the_runs_and_killed_attempts_are_told""",
}


def test_every_row_names_tests_that_exist() -> None:
    rows = [line for line in RUNBOOK.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 45
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, f"no test in the row {row[:60]}"
        assert not set(named) - set(DEFINED), f"no such test: {set(named) - set(DEFINED)}"
        assert row.count(" | ") == 3, f"not four columns: {row[:60]}"


def test_each_failure_of_the_tests_has_a_row() -> None:
    told = set(re.findall(r"`(test_\w+)`", RUNBOOK))
    excepted = {name for names in NO_FAILURE.values() for name in names.split()}
    failures = {name for name, path in DEFINED.items() if OF_FAILURES.search(path) or TELLS.search(name)}
    assert sorted(failures - told - excepted) == [], "give it a row in docs/troubleshooting.md, or except it here"
    assert sorted(excepted & told | excepted - set(DEFINED)) == [], "no exception any more"


@pytest.mark.parametrize("name", ["operations.md", "security.md", "plan-librilight.md", "stack.md", "evaluation.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / "docs" / target).exists(), f"{name} links to {target}"
    for path in re.findall(r"`((?:infra|docs|tests|flows|workers|shards|model)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{name} names {path}"
