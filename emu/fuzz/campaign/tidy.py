"""Findings made small, each in its file's place."""

from dataclasses import replace

from pebble import ProcessExpired, ProcessPool

from emu.fuzz.attempt import Tester
from emu.fuzz.campaign.plan import Plan
from emu.fuzz.campaign.run import Campaign
from emu.fuzz.campaign.store import Store
from emu.fuzz.campaign.work import start_worker
from emu.fuzz.reduce.same import reduced_to, signatures_of
from emu.peers.opening import open_peer
from walker.source import Case, dump_case

__all__ = ["reduce_findings"]

TIME_LIMIT = 300.0
"""Seconds that one reduction may take; a case that takes longer stays as it was found."""


def reduce_findings(campaign: Campaign, store: Store) -> None:
    """Reduce the findings of this run in a process of their own, which may die of one."""
    chosen = sorted(campaign.cases.items())
    with ProcessPool(max_workers=1, initializer=start_worker) as pool:
        futures = [
            (
                slug,
                case,
                pool.schedule(_smaller, args=[campaign.plan, slug, case], timeout=TIME_LIMIT),
            )
            for slug, case in chosen
        ]
        for slug, case, future in futures:
            try:
                smaller = future.result()
            except (TimeoutError, ProcessExpired):
                continue  # What can't be tried again is kept as it was found.
            if smaller is not None:
                campaign.cases[slug] = replace(smaller, note=case.note)
                store.keep(slug, dump_case(campaign.cases[slug]))


def _smaller(plan: Plan, slug: str, case: Case) -> Case | None:
    peer = None if plan.walker is None else open_peer(plan.walker, plan.limits, claims=plan.claims)
    tester = Tester(peer=peer)
    try:
        same = [found for found in signatures_of(tester, case) if found.slug == slug]
        return reduced_to(tester, case, same[0]).case if same else None
    finally:
        if peer is not None:
            peer.close()
