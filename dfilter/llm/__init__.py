"""Talking to a language-model server, and never paying twice for the same answer.

    from dfilter.llm.session import Session
    from dfilter.llm.server import Server
    from dfilter.llm.answers import Request

    with Session(Server(model="gpt-4o-mini")) as session:
        for answer in session.ask(requests):
            ...

``session.ask`` looks every request up in the ledger first; what is missing is sent under the
server's limits and the budget, and committed answer by answer. Rating rows (``rating.rate``),
pairwise verdicts and grades are all built on it.
"""
