import { memo, useLayoutEffect, useRef } from 'react';
import { NONE, toNumber } from '../../lib/format';
import { Cell } from './Cell';

interface Props {
  /** Also the `data-testid`. */
  name: 'last' | 'bid' | 'ask';
  value: string | undefined;
}

/** A price that flashes when it changes. */
export const FlashCell = memo(function FlashCell({ name, value }: Props) {
  const ref = useRef<HTMLSpanElement>(null);
  const before = useRef<string | undefined>(undefined);

  useLayoutEffect(() => {
    const old = toNumber(before.current);
    const now = toNumber(value);
    before.current = value;
    if (ref.current === null || old === undefined || now === undefined || old === now) return;
    // Two animations that look the same: changing from one to the other restarts it without forcing a layout.
    // Not a prop: React does not need it.
    const turn = ref.current.dataset.flash?.endsWith('0') ? '1' : '0';
    ref.current.dataset.flash = `${now > old ? 'up' : 'down'}${turn}`;
  }, [value]);

  return (
    <Cell column={name} ref={ref} value={value}>
      {value ?? NONE}
    </Cell>
  );
});
