import { useSimulated } from '../lib/simulated';

/** Says that what is shown is not a market. */
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
