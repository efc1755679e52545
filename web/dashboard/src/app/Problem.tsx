interface Props {
  topic: string;
  /** The part that could not be read. Without it, nothing is shown. */
  problem: string | undefined;
}

/** Marks a payload of which a part could not be read. */
export function Problem({ topic, problem }: Props) {
  if (problem === undefined) return null;
  const text = `${topic}: ${problem}`;
  return (
    <span className="problem" role="img" aria-label={text} title={text} data-testid="problem">
      ⚠
    </span>
  );
}
