import { memo } from 'react';
import { useNow } from '../../lib/clock';
import { formatAge } from '../../lib/format';
import { Cell } from './Cell';

/** The time since `time`. Updated with the clock of the page. */
export const AgeCell = memo(function AgeCell({ time }: { time: number | undefined }) {
  const now = useNow();
  return <Cell column="age">{formatAge(time === undefined ? undefined : now - time)}</Cell>;
});
