import type { ReactNode } from 'react';
import { ErrorBoundary } from './ErrorBoundary';

interface Props {
  /** The panel's class beside `panel`, which places it on the page. */
  className: string;
  name: string;
  children: ReactNode;
}

/** An error boundary that keeps a panel's place: it shows the error there, and the other panels continue. */
export function PanelBoundary({ className, name, children }: Props) {
  return (
    <ErrorBoundary
      fallback={({ message }) => (
        <section className={`panel ${className}`} aria-label={name} data-testid="bad-panel">
          <p className="note" role="alert">
            {name} cannot be shown: {message}
          </p>
        </section>
      )}
    >
      {children}
    </ErrorBoundary>
  );
}
