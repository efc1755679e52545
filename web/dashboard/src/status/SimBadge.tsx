import { useSimulated } from '../lib/simulated';

/** Marks the data as simulated. */
export function SimBadge() {
  if (!useSimulated()) return null;
  return (
    <span
      className="sim"
      data-testid="sim-badge"
      title="The data comes from a simulation. It is not a market."
    >
      Simulated
    </span>
  );
}
