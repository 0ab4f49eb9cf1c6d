#!/usr/bin/env bash
# validate_submission.sh FILE [--sample sample_submission.csv]: 0 when it can be submitted, 2 with row and column when not.
exec "${PYTHON:-python}" -m spectramind validate "$@"
