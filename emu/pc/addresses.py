"""Where the machine's devices are, and how they are numbered: what firmware tells a guest."""

__all__ = [
    "ACPI_CONTROL_PORT",
    "ACPI_EVENT_PORT",
    "ACPI_IRQ",
    "ACPI_TIMER_PORT",
    "IOAPIC_BASE",
    "IOAPIC_ID",
    "IOAPIC_VERSION",
    "LAPIC_BASE",
    "LAPIC_ID",
    "LAPIC_VERSION",
    "TIMER_PIN",
]

LAPIC_BASE, LAPIC_ID, LAPIC_VERSION = 0xFEE0_0000, 0, 0x14
IOAPIC_BASE, IOAPIC_ID, IOAPIC_VERSION = 0xFEC0_0000, 1, 0x11

TIMER_PIN = 2
"""The I/O APIC's pin of the 8254's interrupt, line 0; others have the pin of their number."""

ACPI_EVENT_PORT, ACPI_CONTROL_PORT, ACPI_TIMER_PORT, ACPI_IRQ = 0x600, 0x604, 0x608, 9
