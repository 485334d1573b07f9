"""The matrix of clients in the docs says what the contract tests run."""

from contract_matrix import DOCUMENT, document


def test_the_matrix_of_clients_is_up_to_date() -> None:
    made = document()
    assert DOCUMENT.read_text(encoding="utf-8") == made, "run: python tests/contract/contract_matrix.py"
